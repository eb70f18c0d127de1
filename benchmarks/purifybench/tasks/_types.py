"""What a benchmark task is: labelled task rows, auxiliary rows with another label, and test sets that are read once."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images, or rows of any other kind, with task labels.

    Attributes:
        images: bytes, shape ``(rows, 3, height, width)``; or floats of any shape, which networks get as they are.
        labels: int64, shape ``(rows,)``.
        groups: the irrelevant label, int64, shape ``(rows,)``, where it is known: to measure by alone, but for `on_own_rows`.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor | None = None


@dataclass(frozen=True)
class Auxiliary:
    """Images, or rows of any other kind, with the irrelevant label, and mostly with it alone.

    Attributes:
        images: as in a `Split`.
        groups: the irrelevant label of each.
        fixed: the value that single-group methods take for group A.
        columns: labels by name of their column, for purifying, where there are several or one is a number; `groups` then names
            their combination, for methods that take one label of a few values.
        classes: the task label of each, where the task's own rows serve as auxiliary ones; None where nobody knows it.
    """

    images: Tensor
    groups: list[Hashable]
    fixed: Hashable
    classes: list[int] | None = None
    columns: Mapping[str, Sequence[Hashable]] | None = None


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: for tables.
        n_classes: number of task classes.
        train: task rows.
        validation: other rows of the same distribution, to choose options by.
        tests: read once; the last one is the shifted test.
        auxiliary: rows with the irrelevant label.
        upper: training rows without the shift, for the upper bound.
        oracle: validation rows with the shift, which no user has; only to choose defaults and to give the opponent every
            chance. Where the shift is photographs these are the auxiliary ones, not those of the test.
    """

    name: str
    n_classes: int
    train: Split
    validation: Split
    tests: dict[str, Split]
    auxiliary: Auxiliary
    upper: Split | None = None
    oracle: Split | None = None


def on_own_rows(task: Task) -> Task:
    """The task for those who know the irrelevant label of their own training rows: these are the auxiliary rows too.

    Raises:
        ValueError: for a task that does not know it.
    """
    train = task.train
    if train.groups is None:
        raise ValueError(f"the training rows of {task.name} come without their irrelevant label")
    return replace(task, auxiliary=Auxiliary(train.images, train.groups.tolist(), 0, train.labels.tolist()))


def to_float(images: Tensor) -> Tensor:
    """Bytes to floats in [-1, 1], what every backbone here reads; floats stay as they are."""
    return images if images.is_floating_point() else images.to(torch.float32) / 127.5 - 1.0
