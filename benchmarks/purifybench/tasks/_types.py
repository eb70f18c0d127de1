"""What a benchmark task is: labelled task rows, auxiliary rows with another label, and test sets that are read once."""

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images with task labels.

    Attributes:
        images: bytes, shape ``(rows, 3, height, width)``.
        labels: int64, shape ``(rows,)``.
        groups: the irrelevant label of a test set, int64, shape ``(rows,)``, where it is known; to measure by alone.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor | None = None


@dataclass(frozen=True)
class Auxiliary:
    """Images with the irrelevant label alone; `fixed` is the value that single-group methods take for group A."""

    images: Tensor
    groups: list[Hashable]
    fixed: Hashable


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


def to_float(images: Tensor) -> Tensor:
    """Bytes to floats in [-1, 1], what every backbone here reads."""
    return images.to(torch.float32) / 127.5 - 1.0
