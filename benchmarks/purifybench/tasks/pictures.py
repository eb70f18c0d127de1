"""Pictures with a class and a nuisance column, of any source: training rows in which the one goes with the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import datasets
import torch
from purifybench.faces.rows import square
from purifybench.faces.sets import styled_faces
from purifybench.sources import splits_of
from torch import Tensor

from ._types import Task
from .cells import Sizes, task_of_rows

SIZES = Sizes()


@dataclass(frozen=True)
class Pictures:
    """Which pictures; cartoon faces by default.

    Attributes:
        data: parquet files, a folder that `datasets.load_dataset` opens such as an image folder, or a hub id (`id` or
            `id:config`).
        image_column: name of the image column.
        class_column: name of the column to predict, of `data`.
        nuisance_column: name of the column to purify of, of `data`.
        classes: classes to use, in the order in which they are paired with nuisances; all by default.
        nuisances: nuisances to use; all by default.
        image_size: pixels.
    """

    data: tuple[str, ...] = ()
    image_column: str = "image"
    class_column: str | None = None
    nuisance_column: str | None = None
    classes: tuple[str, ...] = ()
    nuisances: tuple[str, ...] = ()
    image_size: int = 32


def build(
    *, seed: int, cache: Path, chosen: Pictures, bias: float = 0.95, sizes: Sizes = SIZES, name: str = "pictures"
) -> Task:
    """Class i is paired with nuisance i in the share ``bias`` of its training pictures.

    All splits have rows of their own. Auxiliary pictures carry the nuisance alone; there, in the test and among the oracle's
    rows each class comes equally often with each nuisance. The tests are the test rows whose class has its partner
    (``paired``), and all test rows (``unbiased``).

    Args:
        seed: which rows.
        cache: folder for drawn faces.
        chosen: which pictures; rows of all splits of the data are one set. Of cartoon faces, see `styled_faces`, the class is
            the expression and the nuisance the style. Classes and nuisances are in the order of the column's names or sorted.
        bias: share in [0, 1].
        sizes: rows of the splits.
        name: for tables.

    Raises:
        ValueError: if a column or value is missing, or there are too few rows.
    """
    of_class, of_nuisance = chosen.class_column or "expression", chosen.nuisance_column or "style"
    columns = (chosen.image_column, of_class, of_nuisance)
    source = _opened(chosen.data, columns) if chosen.data else _faces(cache, chosen.image_size)
    labels, names = coded(source, of_class, chosen.classes)
    groups, group_names = coded(source, of_nuisance, chosen.nuisances)
    usable = ((labels >= 0) & (groups >= 0)).nonzero()[:, 0]
    if not len(usable):
        raise ValueError(f"no row has one of the classes {', '.join(names)} and one of the nuisances {', '.join(group_names)}")

    def images(rows: Tensor) -> Tensor:
        return _images(source, usable[rows], chosen.image_column, chosen.image_size)

    named = {"names": names, "group_names": group_names}
    return task_of_rows(name, images, labels[usable], groups[usable], **named, bias=bias, sizes=sizes, seed=seed, shrink=False)


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
            there = f"it has {', '.join(rows.column_names)}: set --image-column, --class-column or --nuisance-column"
            raise ValueError(f"{name} has no column {column!r}; {there}")
    return rows.select_columns(list(columns)).cast_column(columns[0], datasets.Image())


def _images(source: datasets.Dataset, rows: Tensor, column: str, size: int) -> Tensor:
    """Bytes, shape ``(rows, 3, size, size)``: the central square, resized; only these rows are decoded."""
    chosen = source.select(rows.tolist())
    return torch.stack([torch.from_numpy(square(image, size).copy()).permute(2, 0, 1) for image in chosen[column]])
