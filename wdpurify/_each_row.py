"""Draws each row of a sampler once, with its own label, for what is fitted on all rows."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._order import EpochOrder, EvenOrder
from ._sampler import ALL, GroupSampler


class EachRow(NamedTuple):
    """A copy of a sampler that draws each row once, also an augmented row and a row of a rare cell.

    Attributes:
        sampler: the copy, at the start of its order.
        labels: label per row, int64, shape ``(rows,)`` or ``(rows, labels)``; ``groups`` of a batch are then row numbers. With
            one fixed value 0 for it and -1 for all others. None if ``groups`` of a batch are the labels.
        cells: number of the cell of each row, int64, shape ``(rows,)``.
        totals: how often the sampler's population draws each cell, up to a factor, float64, shape ``(cells,)``.
    """

    sampler: Any
    labels: Tensor | None = None
    cells: Tensor | None = None
    totals: Tensor | None = None

    def weights(self, numbers: Tensor) -> Tensor:
        """Weights with which these rows stand for the sampler's draws, float64, shape ``(rows,)``."""
        if self.cells is None or self.totals is None:
            return torch.ones(len(numbers), dtype=torch.float64)
        cells = self.cells[numbers]
        return (self.totals / cells.bincount(minlength=len(self.totals)))[cells]


def each_row(sampler: Any, *, max_rows: int) -> EachRow | None:
    """Return an :class:`EachRow`; None for samplers that only draw.

    Args:
        sampler: a sampler.
        max_rows: number of rows that will be drawn; of more rows those of rare cells and of a fixed value come first.
    """
    if not isinstance(sampler, GroupSampler) or type(sampler).next_batch is not GroupSampler.next_batch:
        return sampler.each_row(max_rows=max_rows) if hasattr(sampler, "each_row") else None
    orders = sampler._orders
    numbers = torch.arange(sampler.rows, device="cpu")
    cells = orders["population"].cells[orders["population"].members.argsort()]
    frequencies = 1.0 / cells.bincount().double()[cells]
    labels = sampler._group_of_row.clone()
    if "group" in orders:
        labels[orders["group"].members] = 0
        cells = (2 * cells + labels + 1).unique(return_inverse=True)[1]
    totals = torch.zeros(int(cells.max()) + 1, dtype=torch.float64, device="cpu").index_add(0, cells, frequencies)
    copied = copy.deepcopy(sampler)
    copied.fixed, copied._group_of_row, copied._drawn = ALL, numbers, 0
    name = "population"
    few = EvenOrder(cells, seed=sampler.seed, name=name) if len(numbers) > max_rows and len(totals) > 1 else None
    copied._orders = {name: few or EpochOrder(numbers, seed=sampler.seed, name=name)}
    return EachRow(copied, labels, cells, totals)
