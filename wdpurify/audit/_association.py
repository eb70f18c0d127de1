"""Measures the association of a label with the task label over the same rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wdpurify._balance import cramers_v


@dataclass(frozen=True)
class Association:
    """Label against task label.

    Attributes:
        known: the label stands in the task data; otherwise it is what a network that learned it predicts there.
        cramers_v: 0 (independent) to 1 (one tells the other), corrected for bias.
        empty_cells: pairs of a task class and a value, as "class / value", that no row has.
        determined: every task class has one value only: in these rows the label is a function of the task label.
        table: rows per task class and value, ``table[class][value]``.
    """

    known: bool
    cramers_v: float
    empty_cells: tuple[str, ...]
    determined: bool
    table: dict[str, dict[str, int]]


def associate(task: Tensor, groups: Tensor, classes: list[str], values: list[str], *, known: bool) -> Association:
    """Count how a label goes with the task label.

    Args:
        task: task class per row, int64.
        groups: label per row, int64; rows with -1 are left out.
        classes, values: names of the numbers.
        known: what the result is to say.
    """
    task = task[groups >= 0]
    groups = groups[groups >= 0]
    counts = torch.zeros(len(classes), len(values), dtype=torch.float64)
    counts.index_put_((task, groups), torch.ones(len(task), dtype=torch.float64), accumulate=True)
    empty = [f"{classes[row]} / {values[place]}" for row, place in (counts == 0).nonzero().tolist()]
    one_each = bool(((counts > 0).sum(1) == 1).all()) and len(task) > 0
    names = {name: dict(zip(values, map(int, row), strict=True)) for name, row in zip(classes, counts.tolist(), strict=True)}
    return Association(known, cramers_v(counts), tuple(empty), one_each and int((counts.sum(0) > 0).sum()) > 1, names)


def independence_weights(task: Tensor, groups: Tensor, largest: float = 20.0) -> Tensor:
    """Weights of rows under which task classes are equally frequent and tell nothing about the label.

    Each cell of class and label weighs as much as the label is frequent; empty cells cannot be made up for.

    Args:
        task, groups: numbers per row, int64.
        largest: no row weighs more, in units of the mean weight before the cut.

    Returns:
        float64, shape ``(rows,)``, with mean 1.

    Source: Kamiran and Calders 2012, "Data preprocessing techniques for classification without discrimination".
    """
    cells = torch.zeros(int(task.max()) + 1, int(groups.max()) + 1, dtype=torch.float64)
    cells.index_put_((task, groups), torch.ones(len(task), dtype=torch.float64), accumulate=True)
    weights = cells.sum(0)[groups] / cells[task, groups]
    weights = (weights / weights.mean()).clamp(max=largest)
    return weights / weights.mean()
