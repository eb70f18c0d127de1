"""Expressions of cartoon faces across data sets, with hair colours that go with them; see `purifybench.faces.sets`."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from purifybench.faces.composition import EXPRESSIONS
from purifybench.faces.sets import HAIR, TASK_SETS, auxiliary_faces, faces_in_every_hair, task_faces
from torch import Tensor

from ._types import Auxiliary, Split, Task

#: Irrelevant and relevant label of the auxiliary faces, with the value that single-group methods fix.
LABELS = {"hair": "black", "smiling": True}


def build(
    *,
    seed: int,
    train: str,
    cache: Path,
    image_size: int = 32,
    bias: float = 0.95,
    label: str = "hair",
    auxiliary: str = "same",
    keep_hair: bool = False,
    every_hair: bool = False,
    other_sets: bool = True,
) -> Task:
    """Train on one set, test on unseen people of it and on both other sets.

    In each set the share ``bias`` of the faces has the hair colour that the set pairs with the expression. The tests are the
    set's own people (``within``), the same people with hair at random (``unbiased``), and the other sets as they are. The
    upper bound trains on the same people with hair at random.

    Args:
        seed: faces and splits.
        train: a name of `TASK_SETS`.
        cache: folder for drawn faces.
        image_size: pixels.
        bias: share in [0, 1].
        label: which label of the auxiliary faces to purify of, ``"hair"`` or ``"smiling"``.
        auxiliary: auxiliary faces of the ``"same"`` mixture as the training set, of ``"all"`` three, or of ``"other"`` styles.
        keep_hair: say of every split which hair colour its faces have.
        every_hair: show each person of the ``unbiased`` test with every hair colour, so that each pair of expression and hair
            has many rows.
        other_sets: test on the two other sets too; without them they are not drawn.
    """
    if not 0 <= bias <= 1:
        raise ValueError(f"`bias` must be in [0, 1], got {bias}")
    faces = {
        name: task_faces(name, seed=seed, size=image_size, cache=cache) for name in (TASK_SETS if other_sets else (train,))
    }
    others = auxiliary_faces(train if auxiliary == "same" else auxiliary, seed=seed, size=image_size, cache=cache)
    own = faces[train]
    split = partial(_split, keep_hair=keep_hair)
    tests = {"within": split(own, "test", bias), "unbiased": split(own, "test", 0.0)}
    if every_hair:
        tests["unbiased"] = _of_rows(faces_in_every_hair(train, seed=seed, size=image_size, cache=cache), keep_hair=keep_hair)
    tests |= {name: split(rows, "test", bias) for name, rows in faces.items() if name != train}
    return Task(
        name=f"faces, {train}",
        n_classes=len(EXPRESSIONS),
        train=split(own, "train", bias),
        validation=split(own, "validation", bias),
        tests=tests,
        auxiliary=Auxiliary(_images(others), list(others[label]), fixed=LABELS[label]),
        upper=split(own, "train", 0.0),
        oracle=split(own, "validation", 0.0),
    )


def _split(faces: Dataset, split: str, bias: float, *, keep_hair: bool) -> Split:
    paired = np.array(faces["draw"]) < bias
    rows = np.flatnonzero((np.array(faces["split"]) == split) & (np.array(faces["paired"]) == paired))
    return _of_rows(faces.select(rows), keep_hair=keep_hair)


def _of_rows(faces: Dataset, *, keep_hair: bool) -> Split:
    hair = torch.tensor([HAIR.index(colour) for colour in faces["hair"]]) if keep_hair else None
    return Split(_images(faces), torch.tensor(faces["expression"]), hair)


def _images(faces: Dataset) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in faces["image"]])).permute(0, 3, 1, 2).contiguous()
