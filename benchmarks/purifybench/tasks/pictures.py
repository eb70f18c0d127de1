"""Pictures with a class and a nuisance column, of any source: training rows in which the one goes with the other."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import datasets
import torch
from purifybench.faces.rows import square
from purifybench.faces.sets import styled_faces
from purifybench.sources import splits_of
from torch import Tensor

from ._types import Auxiliary, Split, Task
from .cells import Parts, Sizes, partner, split_cells


def build(
    *,
    seed: int,
    cache: Path,
    data: tuple[str, ...] = (),
    image_column: str = "image",
    class_column: str = "expression",
    nuisance_column: str = "style",
    classes: tuple[str, ...] = (),
    nuisances: tuple[str, ...] = (),
    image_size: int = 32,
    bias: float = 0.95,
    sizes: Sizes = Sizes(),  # noqa: B008 - frozen
) -> Task:
    """Class i is paired with nuisance i in the share ``bias`` of its training pictures.

    All splits have rows of their own. Auxiliary pictures carry the nuisance alone; there, in the test and among the oracle's
    rows each class comes equally often with each nuisance. The tests are the test rows whose class has its partner
    (``paired``), and all test rows (``unbiased``).

    Args:
        seed: which rows.
        cache: folder for drawn faces.
        data: parquet files, a folder that `datasets.load_dataset` opens, or a hub id (``id`` or ``id:config``); rows of all
            their splits are one set. By default cartoon faces, see `styled_faces`.
        image_column, class_column, nuisance_column: names of columns.
        classes, nuisances: the values to use, in the order in which they are paired; all by default, in the order of the
            column's names or sorted.
        image_size: pixels.
        bias: share in [0, 1].
        sizes: rows of the splits.

    Raises:
        ValueError: if a column or value is missing, or there are too few rows.
    """
    columns = (image_column, class_column, nuisance_column)
    source = _faces(cache, image_size) if not data else _opened(data, columns)
    labels, names = coded(source, class_column, classes)
    groups, group_names = coded(source, nuisance_column, nuisances)
    usable = ((labels >= 0) & (groups >= 0)).nonzero()[:, 0]
    if not len(usable):
        raise ValueError(f"no row has one of the classes {', '.join(names)} and one of the nuisances {', '.join(group_names)}")
    parts = split_cells(labels[usable], groups[usable], bias=bias, sizes=sizes, seed=seed)

    def split(chosen: Tensor) -> Split:
        rows = usable[chosen]
        return Split(_images(source, rows, image_column, image_size), labels[rows], groups[rows])

    return _task(parts, split, names, group_names)


def _task(parts: Parts, split: Callable[[Tensor], Split], names: Sequence[str], group_names: Sequence[str]) -> Task:
    test = split(parts.test)
    own = torch.tensor([partner(label, len(group_names)) for label in test.labels.tolist()])
    paired = test.groups == own
    auxiliary = split(parts.auxiliary)
    return Task(
        name="pictures",
        n_classes=len(names),
        train=split(parts.train),
        validation=split(parts.validation),
        tests={"paired": Split(test.images[paired], test.labels[paired], test.groups[paired]), "unbiased": test},
        auxiliary=Auxiliary(
            auxiliary.images, [group_names[group] for group in auxiliary.groups.tolist()], fixed=group_names[0]
        ),
        upper=split(parts.upper),
        oracle=split(parts.oracle),
    )


def coded(source: datasets.Dataset, column: str, wanted: Sequence[str]) -> tuple[Tensor, list[str]]:
    """A column as numbers, -1 for values that are not wanted, and the names that the numbers stand for.

    Args:
        source: the rows.
        column: of names, numbers or class labels.
        wanted: values to use, as text; empty for all.

    Raises:
        ValueError: if a wanted value does not occur.
    """
    feature = source.features[column]
    values = list(source[column])
    if isinstance(feature, datasets.ClassLabel):
        values = [None if value is None or value < 0 else feature.int2str(value) for value in values]
        known = [name for name in feature.names if name in set(values)]
    else:
        known = [str(value) for value in sorted({value for value in values if value is not None})]
    for name in wanted:
        if name not in known:
            raise ValueError(f"column {column!r} has no value {name!r}; it has {', '.join(known[:20])}")
    names = list(wanted) or known
    number = {name: place for place, name in enumerate(names)}
    return torch.tensor([-1 if value is None else number.get(str(value), -1) for value in values]), names


@lru_cache(maxsize=1)
def _faces(cache: Path, size: int) -> datasets.Dataset:
    return styled_faces(size=size, cache=cache)


@lru_cache(maxsize=1)
def _opened(data: tuple[str, ...], columns: tuple[str, ...]) -> datasets.Dataset:
    """All rows of the sources, with these columns."""
    found = [_source(name, columns) for name in data]
    return found[0] if len(found) == 1 else datasets.concatenate_datasets(found)


def _source(name: str, columns: tuple[str, ...]) -> datasets.Dataset:
    rows = datasets.concatenate_datasets(list(splits_of(name).values()))
    for column in columns:
        if column not in rows.column_names:
            raise ValueError(
                f"{name} has no column {column!r}; it has {', '.join(rows.column_names)}: set --image-column, --class-column "
                "or --nuisance-column"
            )
    return rows.select_columns(list(columns)).cast_column(columns[0], datasets.Image())


def _images(source: datasets.Dataset, rows: Tensor, column: str, size: int) -> Tensor:
    """Bytes, shape ``(rows, 3, size, size)``: the central square, resized; only these rows are decoded."""
    chosen = source.select(rows.tolist())
    return torch.stack([torch.from_numpy(square(image, size).copy()).permute(2, 0, 1) for image in chosen[column]])
