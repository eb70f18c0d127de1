"""Balances draws over the cells of group and class, for auxiliary rows in which group and class are dependent."""

import itertools
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._labels import index_by_value, labels_of_rows
from ._torch import derive_seed
from .exceptions import AuxiliaryDataWarning

#: Smallest Cramér's V of group and class that causes a warning.
CONFOUNDED = 0.3
#: Largest number of cells in a warning message.
SHOWN = 5


def balanced_weights(groups: Sequence[Hashable] | Tensor, classes: Sequence[Hashable] | Tensor) -> Tensor:
    """Compute row weights that give every occurring pair of group and class the same probability.

    For task batches: ``torch.utils.data.WeightedRandomSampler(balanced_weights(groups, classes), len(groups))``.

    Args:
        groups, classes: one label per row, as for :class:`GroupSampler`.

    Returns:
        Float64, shape ``(rows,)``, positive, with sum 1.

    Raises:
        TypeError, ValueError: for labels that :class:`GroupSampler` refuses, or if the lengths differ.

    >>> balanced_weights(["a", "a", "a", "b"], [0, 0, 1, 1])
    tensor([0.1667, 0.1667, 0.3333, 0.3333], dtype=torch.float64)
    """
    cells = cells_of_rows(labels_of_rows(groups), labels_of_rows(classes))
    weights = 1.0 / cells.bincount().double()[cells]
    return weights / weights.sum()


def cramers_v(counts: Tensor) -> float:
    """Compute the bias-corrected Cramér's V of a contingency table; 0 if one side has a single value.

    Source: Bergsma 2013, "A bias-correction for Cramér's V and Tschuprow's T".
    """
    counts = counts.double()
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    total = counts.sum()
    (rows, columns) = counts.shape
    if min(rows, columns) < 2 or total < 2:
        return 0.0
    expected = counts.sum(1, keepdim=True) * counts.sum(0) / total
    squared = ((counts - expected).square() / expected).sum() / total
    corrected = (squared - (rows - 1) * (columns - 1) / (total - 1)).clamp(min=0.0)
    sides = [side - (side - 1) ** 2 / (total - 1) for side in (rows, columns)]
    return float((corrected / (min(sides) - 1)).sqrt().clamp(max=1.0))


def classes_at_hand(images: Any, groups: list[Hashable]) -> list[Hashable] | None:
    """Return the ``targets`` of a data set such as torchvision's.

    None if there are no usable ``targets``, or if they equal the groups (for example an ``ImageFolder`` sorted by nuisance).
    """
    targets = getattr(images, "targets", None)
    if isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point():
        targets = targets.tolist()
    if not isinstance(targets, list) or len(targets) != len(groups) or not all(isinstance(each, int | str) for each in targets):
        return None
    names = getattr(images, "classes", None)
    named = dict(enumerate(names)) if isinstance(names, list) else {}
    return None if groups in (targets, [named.get(each) for each in targets]) else list(targets)


def warn_if_confounded(groups: list[Hashable], classes: list[Hashable], remedy: str) -> None:
    """Warn if groups and classes are dependent: features without the group information lose class information too.

    Args:
        groups, classes: one label per row.
        remedy: the message's sentence on how to balance.
    """
    group, of_class = _numbered_both(groups, classes)
    width = int(of_class.max()) + 1
    v = cramers_v((group * width + of_class).bincount(minlength=(int(group.max()) + 1) * width).view(-1, width))
    if v >= CONFOUNDED:
        warnings.warn(
            f"the groups depend on the classes of the same rows (Cramér's V {v:.2f}, 0 is independent), so features that "
            f"forget the groups forget the classes. {remedy}",
            AuxiliaryDataWarning,
            stacklevel=3,
        )


class CellOrder:
    """An endless order that visits each cell once before any cell twice, and likewise the rows within a cell.

    Args:
        rows: numbers of the rows, shape ``(n,)``.
        cells: cell number of each row, int64, shape ``(n,)``.
        seed: seed of the order.
        name: name of the stream; streams with different names have different orders.
    """

    def __init__(self, rows: Tensor, cells: Tensor, *, seed: int, name: str) -> None:
        self._members: Sequence[Tensor] = rows[cells.argsort(stable=True)].split(cells.bincount()[cells.unique()].tolist())
        self._seed = seed
        self._name = name
        self._kept: dict[int, tuple[int, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def rows(self, places: Tensor) -> Tensor:
        """Return the rows at some positions of the order."""
        return torch.stack([self._row(*divmod(place, len(self))) for place in places.tolist()])

    def _row(self, cycle: int, slot: int) -> Tensor:
        cell = self._permuted(-1, cycle, len(self))[slot]
        members = self._members[cell]
        epoch, place = divmod(cycle, len(members))
        return members[self._permuted(cell, epoch, len(members))[place]]

    def _permuted(self, what: int, number: int, count: int) -> list[int]:
        if self._kept.get(what, (-1,))[0] != number:
            generator = torch.Generator("cpu").manual_seed(derive_seed(self._seed, self._name, what, number))
            self._kept[what] = number, torch.randperm(count, generator=generator, device="cpu").tolist()
        return self._kept[what][1]


def numbered_cells(groups: list[Hashable], classes: list[Hashable]) -> Tensor:
    """Return the cell number of each row, int64, shape ``(rows,)``, for a balanced sampler.

    Raises:
        ValueError: if every class has one group only, because no class then allows a comparison of groups.
    """
    group, of_class = _numbered_both(groups, classes)
    pairs = torch.stack([group, of_class]).unique(dim=1)
    if len(pairs[1].unique()) == pairs.shape[1]:
        raise ValueError(
            "`balance` needs classes that occur in more than one group, got one group per class, so these rows do not separate "
            "group and class. Use auxiliary data from another source"
        )
    return cells_of_rows(groups, classes)


def warn_of_cells(groups: list[Hashable], classes: list[Hashable]) -> None:
    """Warn of cells with no row or a single row."""
    group, of_class = _numbered_both(groups, classes)
    pairs, counts = torch.stack([group, of_class]).unique(dim=1, return_counts=True)
    names = [list(index_by_value(labels)) for labels in (groups, classes)]
    cells_in_all = len(names[0]) * len(names[1])
    absent = cells_in_all - len(counts)
    single = int((counts == 1).sum())
    if absent or single:
        found = set(map(tuple, pairs.T.tolist()))
        every = itertools.product(range(len(names[0])), range(len(names[1])))
        first = itertools.islice((cell for cell in every if cell not in found), SHOWN)
        shown = ", ".join(f"({names[0][one]!r}, {names[1][other]!r})" for one, other in first)
        shown += " ..." if absent > SHOWN else ""
        without = f"{absent} have no row ({shown}), so those groups are compared without those classes" if absent else ""
        alone = f"{single} have one row, which repeats in every cycle" if single else ""
        warnings.warn(
            f"of {cells_in_all} cells of group and class {' and '.join(filter(None, [without, alone]))}. Add rows to them",
            AuxiliaryDataWarning,
            stacklevel=3,
        )


def numbered(labels: list[Hashable]) -> Tensor:
    """Number the labels in the order of their values' first occurrence, int64, shape ``(rows,)``."""
    number = torch.empty(len(labels), dtype=torch.int64, device="cpu")
    for value, rows in enumerate(index_by_value(labels).values()):
        number[rows] = value
    return number


def cells_of_rows(groups: list[Hashable], classes: list[Hashable]) -> Tensor:
    """Return the cell number of group and class of each row, int64, shape ``(rows,)``."""
    group, of_class = _numbered_both(groups, classes)
    cells: Tensor = (group * (int(of_class.max()) + 1) + of_class).unique(return_inverse=True)[1]
    return cells


def _numbered_both(groups: list[Hashable], classes: list[Hashable]) -> tuple[Tensor, Tensor]:
    if len(groups) != len(classes):
        raise ValueError(f"`balance` must hold one class per row, got {len(classes)} classes for {len(groups)} rows")
    group = numbered(groups)
    try:
        return group, numbered(classes)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("`groups`", "`balance`")) from error
