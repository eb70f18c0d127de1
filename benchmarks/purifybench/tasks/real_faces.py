"""Expressions across the user's own copies of CK+, MMI and Oulu-CASIA, with CelebA's hair colours or smiles to purify of."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from purifybench.faces import celeba as celeba_faces
from purifybench.faces.composition import EXPRESSIONS
from purifybench.faces.layouts import LAYOUTS, read_set
from purifybench.faces.rows import load_images
from torch import Tensor

from ._types import Auxiliary, Split, Task
from .cartoon_faces import LABELS

#: Share of the people whose faces choose options, and of those that are the set's own test.
HELD_OUT = 0.15

_auxiliary = lru_cache(maxsize=1)(celeba_faces.auxiliary_faces)


def build(
    *,
    seed: int,
    train: str,
    folders: Mapping[str, Path],
    celeba: Path,
    image_size: int,
    label: str = "hair",
    auxiliary_rows: int = 4000,
) -> Task:
    """Train on one set, test on unseen people of it (``within``) and on all of the other sets.

    Each folder is decoded once per process.

    Args:
        seed: which people are in which split, and which auxiliary faces are drawn.
        train: the set to train on, one of `folders`.
        folders: where the sets are, by name: ``"ck+"``, ``"mmi"`` and ``"oulu"``, at least two of them.
        celeba: where CelebA is.
        image_size: pixels.
        label: which label of the auxiliary faces to purify of, ``"hair"`` or ``"smiling"``.
        auxiliary_rows: auxiliary faces.

    Raises:
        ValueError: if a folder is not as said; the message says what was expected and what was found.
    """
    faces = {name: _load(name, Path(folder), image_size) for name, folder in folders.items()}
    own, subjects = faces[train]
    try:
        parts = split_by_subject(subjects, own.labels.tolist(), seed=seed)
    except ValueError as error:
        raise ValueError(f"{folders[train]}: {error}") from error
    within = {name: Split(own.images[rows], own.labels[rows]) for name, rows in parts.items()}
    images, groups = _auxiliary(Path(celeba), label=label, rows=auxiliary_rows, seed=seed, size=image_size)
    return Task(
        name=f"faces, {train}",
        n_classes=len(EXPRESSIONS),
        train=within["train"],
        validation=within["validation"],
        tests={"within": within["test"], **{name: split for name, (split, _) in faces.items() if name != train}},
        auxiliary=Auxiliary(images, list(groups), fixed=LABELS[label]),
    )


def split_by_subject(subjects: Sequence[str], labels: Sequence[int], *, seed: int, attempts: int = 1000) -> dict[str, Tensor]:
    """Rows of ``train`` (about 70 % of the people), ``validation`` and ``test`` (15 % each); nobody is in two of them.

    People are shuffled until every class is in ``train``.

    Args:
        subjects: who each row is.
        labels: the class of each row.
        seed: of the shuffles.
        attempts: shuffles before giving up.

    Returns:
        Row numbers in ascending order, int64; together all rows.

    Raises:
        ValueError: for fewer than three people, or if a class is had by too few people.
    """
    people = sorted(set(subjects))
    if len(people) < 3:
        raise ValueError(f"training, validation and test need three subjects at least, got {len(people)}")
    held_out = max(1, round(HELD_OUT * len(people)))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(attempts):
        order = [people[number] for number in torch.randperm(len(people), generator=generator).tolist()]
        part = dict.fromkeys(order[:held_out], "validation") | dict.fromkeys(order[held_out : 2 * held_out], "test")
        of_row = [part.get(subject, "train") for subject in subjects]
        if {label for label, name in zip(labels, of_row, strict=True) if name == "train"} == set(labels):
            return {
                name: torch.tensor([row for row, found in enumerate(of_row) if found == name])
                for name in ("train", "validation", "test")
            }
    raise ValueError(
        f"no split of {len(people)} subjects has every class in its training part: some class has too few subjects"
    )


@lru_cache(maxsize=len(LAYOUTS))
def _load(name: str, folder: Path, size: int) -> tuple[Split, tuple[str, ...]]:
    rows = read_set(name, folder)
    labels = torch.tensor([EXPRESSIONS.index(row.expression) for row in rows])
    return Split(load_images(rows, size), labels), tuple(row.subject for row in rows)
