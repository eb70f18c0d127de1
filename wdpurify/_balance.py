"""Balance: rows drawn evenly over the cells of group and class, where auxiliary rows have both and one goes with the other."""

import itertools
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._labels import index_by_value, labels_of_rows
from ._torch import derive_seed
from .exceptions import AuxiliaryDataWarning

#: Cramér's V of group and class from which an unbalanced sampler is warned about.
CONFOUNDED = 0.3
#: Cells that a warning names.
SHOWN = 5


def balanced_weights(groups: Sequence[Hashable] | Tensor, classes: Sequence[Hashable] | Tensor) -> Tensor:
    """Weights under which every pair of a group and a class that occurs is drawn equally often.

    For the task's own batches: ``torch.utils.data.WeightedRandomSampler(balanced_weights(groups, classes), len(groups))``.

    Args:
        groups, classes: one label per row, as :class:`GroupSampler` takes them.

    Returns:
        Float64, shape ``(rows,)``, positive, with sum 1.

    Raises:
        TypeError, ValueError: for labels that :class:`GroupSampler` refuses, or lengths that differ.

    >>> balanced_weights(["a", "a", "a", "b"], [0, 0, 1, 1])
    tensor([0.1667, 0.1667, 0.3333, 0.3333], dtype=torch.float64)
    """
    cells = cells_of_rows(labels_of_rows(groups), labels_of_rows(classes))
    weights = 1.0 / cells.bincount().double()[cells]
    return weights / weights.sum()


def cramers_v(counts: Tensor) -> float:
    """Cramér's V of a contingency table, corrected for bias; 0 where a side has one value.

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
    """The classes that a data set such as torchvision's says its rows have.

    None where it does not, or says something else, and where its classes are the groups themselves, as in a folder that files
    auxiliary images by their nuisance.
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
    """Warn of groups that go with the classes of the same rows: purifying of them would forget the classes too.

    Args:
        groups, classes: one label per row.
        remedy: how to balance, for the message.
    """
    group, of_class = _numbered_both(groups, classes)
    width = int(of_class.max()) + 1
    v = cramers_v((group * width + of_class).bincount(minlength=(int(group.max()) + 1) * width).view(-1, width))
    if v >= CONFOUNDED:
        warnings.warn(
            f"the groups go with the classes of the same rows (Cramér's V {v:.2f}, 0 is independent), so features that forget "
            f"the groups forget the classes: {remedy}",
            AuxiliaryDataWarning,
            stacklevel=3,
        )


class CellOrder:
    """The order in which rows come if each cell comes once before any comes twice, and so each row of a cell.

    Args:
        rows: numbers of the rows, shape ``(n,)``.
        cells: number of the cell of each, int64, shape ``(n,)``.
        seed: of the order.
        name: of the stream, which makes its order another one.
    """

    def __init__(self, rows: Tensor, cells: Tensor, *, seed: int, name: str) -> None:
        self._members: Sequence[Tensor] = rows[cells.argsort(stable=True)].split(cells.bincount()[cells.unique()].tolist())
        self._seed = seed
        self._name = name
        self._kept: dict[int, tuple[int, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def rows(self, places: Tensor) -> Tensor:
        """The rows at some places of the order, which has no end."""
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
    """The cell of each row, int64, shape ``(rows,)``.

    Raises:
        ValueError: if every class has one group only: there is nothing to compare within any class.
    """
    group, of_class = _numbered_both(groups, classes)
    pairs = torch.stack([group, of_class]).unique(dim=1)
    if len(pairs[1].unique()) == pairs.shape[1]:
        raise ValueError(
            "`balance` needs classes that occur in more than one group, but each class here has one group alone, so group and "
            "class cannot be told apart in these rows: take auxiliary data of another source"
        )
    return cells_of_rows(groups, classes)


def warn_of_cells(groups: list[Hashable], classes: list[Hashable]) -> None:
    """Warn of cells that have no row, or one."""
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
        alone = f"{single} have one row, which is drawn over and over" if single else ""
        warnings.warn(
            f"of {cells_in_all} cells of group and class {' and '.join(filter(None, [without, alone]))}: more rows would help",
            AuxiliaryDataWarning,
            stacklevel=3,
        )


def numbered(labels: list[Hashable]) -> Tensor:
    """The labels as numbers, in the order in which their values first occur, int64, shape ``(rows,)``."""
    number = torch.empty(len(labels), dtype=torch.int64, device="cpu")
    for value, rows in enumerate(index_by_value(labels).values()):
        number[rows] = value
    return number


def cells_of_rows(groups: list[Hashable], classes: list[Hashable]) -> Tensor:
    """The cell of group and class of each row, numbered, int64, shape ``(rows,)``."""
    group, of_class = _numbered_both(groups, classes)
    cells: Tensor = (group * (int(of_class.max()) + 1) + of_class).unique(return_inverse=True)[1]
    return cells


def _numbered_both(groups: list[Hashable], classes: list[Hashable]) -> tuple[Tensor, Tensor]:
    if len(groups) != len(classes):
        raise ValueError(f"`balance` must hold one class per row: got {len(classes)} classes for {len(groups)} rows")
    group = numbered(groups)
    try:
        return group, numbered(classes)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("`groups`", "`balance`")) from error
