"""Endless seeded orders of rows: permutations of all rows, or orders that are even over cells, with and without repeats."""

from typing import Protocol

import torch
from torch import Tensor

from ._torch import derive_seed

#: Number of rows above which the order of a cell is kept; a smaller one is faster to make again than to remember.
KEPT = 1000


class Order(Protocol):
    """Interface of an order of rows.

    Attributes:
        members: numbers of all rows that it draws, int64.
        cells: number of the cell of each of them, int64; cells are drawn alike often.
    """

    members: Tensor
    cells: Tensor

    def rows(self, places: Tensor) -> Tensor:
        """Return the row numbers at increasing positions of the order, int64, shape ``(places,)``."""
        ...


class EpochOrder:
    """An endless order that visits each row once per epoch, in a permutation of its own.

    Args:
        rows: numbers of the rows, shape ``(n,)``.
        seed: seed of the order.
        name: name of the stream; streams with different names have different orders.
    """

    def __init__(self, rows: Tensor, *, seed: int, name: str) -> None:
        self.members = rows
        self.cells = torch.zeros_like(rows)
        self._seed = seed
        self._name = name
        self._epochs: dict[int, Tensor] = {}

    def rows(self, places: Tensor) -> Tensor:
        """Return the rows at increasing positions of the order."""
        first, last = (int(place) // len(self.members) for place in places[[0, -1]])
        epochs = [self._epoch(number) for number in range(first, last + 1)]
        order = epochs[0] if first == last else torch.cat(epochs)
        return self.members[order[places - first * len(self.members)]]

    def _epoch(self, number: int) -> Tensor:
        if number not in self._epochs:
            generator = torch.Generator("cpu").manual_seed(derive_seed(self._seed, self._name, number))
            order = torch.randperm(len(self.members), generator=generator, device="cpu")
            recent = {key: old for key, old in self._epochs.items() if abs(key - number) == 1}
            self._epochs = {**recent, number: order}  # workers read ahead, into the next epoch
        return self._epochs[number]


class EvenOrder:
    """An order of all rows, each once, that is even over cells as long as they have rows left; then it begins again.

    Args:
        cells: cell number of each row, int64, shape ``(rows,)``.
        seed: seed of the order.
        name: name of the stream; streams with different names have different orders.
    """

    def __init__(self, cells: Tensor, *, seed: int, name: str) -> None:
        generator = torch.Generator("cpu").manual_seed(derive_seed(seed, name, 0))
        order = torch.randperm(len(cells), generator=generator, device="cpu")
        order = order[cells[order].argsort(stable=True)]
        counts = cells.bincount()
        place_in_cell = torch.arange(len(cells), device="cpu") - (counts.cumsum(0) - counts).repeat_interleave(counts)
        self.members = order[place_in_cell.argsort(stable=True)]
        self.cells = cells[self.members]

    def rows(self, places: Tensor) -> Tensor:
        """Return the rows at some positions of the order."""
        return self.members[places % len(self.members)]


class CellOrder:
    """An endless order that visits each cell once before any cell twice, and likewise the rows within a cell.

    A place costs as much as the size of its cell, or less: orders of large cells are kept from one visit to the next.

    Args:
        rows: numbers of the rows, shape ``(n,)``.
        cells: cell number of each row, int64, shape ``(n,)``.
        seed: seed of the order.
        name: name of the stream; streams with different names have different orders.
    """

    def __init__(self, rows: Tensor, cells: Tensor, *, seed: int, name: str) -> None:
        order = cells.argsort(stable=True)
        self.members, self.cells = rows[order], cells[order]
        self._counts = cells.unique(return_counts=True)[1]
        self._starts = self._counts.cumsum(0) - self._counts
        self._seed = seed
        self._name = name
        self._kept: dict[int, tuple[int, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def rows(self, places: Tensor) -> Tensor:
        """Return the rows at some positions of the order."""
        return self.members[[self._place(*divmod(place, len(self))) for place in places.tolist()]]

    def _place(self, cycle: int, slot: int) -> int:
        cell = int(self._permuted(-1, cycle, len(self))[slot])
        count = int(self._counts[cell])
        epoch, place = divmod(cycle, count)
        return int(self._starts[cell]) + (int(self._permuted(cell, epoch, count)[place]) if count > 1 else 0)

    def _permuted(self, what: int, number: int, count: int) -> Tensor:
        cached = self._kept.get(what)
        if cached is not None and cached[0] == number:
            return cached[1]
        generator = torch.Generator("cpu").manual_seed(derive_seed(self._seed, self._name, what, number))
        order = torch.randperm(count, generator=generator, device="cpu")
        if count > KEPT:
            self._kept[what] = number, order
        return order
