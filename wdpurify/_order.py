"""Endless seeded orders of rows: permutations of all rows, or draws that are even over cells."""

from typing import Protocol

import torch
from torch import Tensor

from ._torch import derive_seed

#: Number of rows above which the order of a cell is kept; a smaller one is faster to make again than to remember.
KEPT = 1000


class Order(Protocol):
    """Interface of an order of rows."""

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
        self._rows = rows
        self._seed = seed
        self._name = name
        self._epochs: dict[int, Tensor] = {}

    def rows(self, places: Tensor) -> Tensor:
        """Return the rows at increasing positions of the order."""
        first, last = (int(place) // len(self._rows) for place in places[[0, -1]])
        epochs = [self._epoch(number) for number in range(first, last + 1)]
        order = epochs[0] if first == last else torch.cat(epochs)
        return self._rows[order[places - first * len(self._rows)]]

    def _epoch(self, number: int) -> Tensor:
        if number not in self._epochs:
            generator = torch.Generator("cpu").manual_seed(derive_seed(self._seed, self._name, number))
            order = torch.randperm(len(self._rows), generator=generator, device="cpu")
            recent = {key: old for key, old in self._epochs.items() if abs(key - number) == 1}
            self._epochs = {**recent, number: order}  # workers read ahead, into the next epoch
        return self._epochs[number]


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
        self._rows = rows[cells.argsort(stable=True)]
        self._counts = cells.unique(return_counts=True)[1]
        self._starts = self._counts.cumsum(0) - self._counts
        self._seed = seed
        self._name = name
        self._kept: dict[int, tuple[int, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def rows(self, places: Tensor) -> Tensor:
        """Return the rows at some positions of the order."""
        return self._rows[[self._place(*divmod(place, len(self))) for place in places.tolist()]]

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
