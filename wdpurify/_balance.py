"""Balances draws over the cells of group and class, for auxiliary rows in which group and class are dependent."""

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor

from ._diagnostics import warn_at_caller
from ._labels import labels_of_rows, numbers_of
from ._nuisances import columns_of_labels, numbered
from .exceptions import AuxiliaryDataWarning

#: Smallest Cramér's V of group and class that causes a warning.
CONFOUNDED = 0.3
#: Largest number of cells in a warning message.
SHOWN = 5


def balanced_weights(groups: Sequence[Hashable] | Tensor, classes: Sequence[Hashable] | Tensor) -> Tensor:
    """Compute row weights that give every occurring pair of group and class the same probability.

    For task batches: ``torch.utils.data.WeightedRandomSampler(balanced_weights(groups, classes), len(groups))``.

    Args:
        groups: one label per row, or columns of labels, as for :class:`GroupSampler`; of columns their combinations count.
        classes: one label per row.

    Returns:
        Float64, shape ``(rows,)``, positive, with sum 1.

    Raises:
        TypeError, ValueError: for labels that :class:`GroupSampler` refuses, or if the lengths differ.

    >>> balanced_weights(["a", "a", "a", "b"], [0, 0, 1, 1])
    tensor([0.1667, 0.1667, 0.3333, 0.3333], dtype=torch.float64)
    """
    listed = labels_of_rows(classes)
    columns = columns_of_labels(groups, len(listed))
    cells = cells_of_rows(labels_of_rows(groups) if columns is None else numbered(columns).combined, listed)
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


def classes_at_hand(data: Any, groups: list[Hashable]) -> list[Hashable] | None:
    """Return the ``targets`` of a data set such as torchvision's.

    None if there are no usable ``targets``, or if they equal the groups (for example an ``ImageFolder`` sorted by nuisance).
    """
    targets = getattr(data, "targets", None)
    if isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point():
        targets = targets.tolist()
    if not isinstance(targets, list) or len(targets) != len(groups) or not all(isinstance(each, int | str) for each in targets):
        return None
    names = getattr(data, "classes", None)
    named = dict(enumerate(names)) if isinstance(names, list) else {}
    return None if groups in (targets, [named.get(each) for each in targets]) else list(targets)


def warn_if_confounded(groups: list[Hashable], classes: list[Hashable], remedy: str) -> None:
    """Warn if groups and classes are dependent: features without the group information lose class information too.

    Args:
        groups, classes: one label per row.
        remedy: the message's sentence on how to balance.
    """
    values, numbers = numbers_of(groups)
    names, of_class = _numbered_classes(classes, len(numbers))
    size = len(values) * len(names)
    v = cramers_v((numbers * len(names) + of_class).bincount(minlength=size).view(-1, len(names)))
    if v >= CONFOUNDED:
        warn_at_caller(
            f"the groups depend on the classes of the same rows (Cramér's V {v:.2f}, 0 is independent), so features that "
            f"forget the groups forget the classes. {remedy}",
            AuxiliaryDataWarning,
        )


def cells_of_rows(groups: list[Hashable], classes: list[Hashable]) -> Tensor:
    """Return the cell number of group and class of each row, int64, shape ``(rows,)``."""
    numbers = numbers_of(groups)[1]
    names, of_class = _numbered_classes(classes, len(numbers))
    cells: Tensor = (numbers * len(names) + of_class).unique(return_inverse=True)[1]
    return cells


def cells_to_balance(values: list[Hashable], numbers: Tensor, classes: list[Hashable]) -> Tensor:
    """Return the cell number of each row, int64, shape ``(rows,)``, for a balanced sampler.

    Warns of cells with no row or a single row.

    Args:
        values: the groups.
        numbers: number of each row's group, int64, shape ``(rows,)``.
        classes: one class per row.

    Raises:
        ValueError: if every class has one group only, because no class then allows a comparison of groups.
    """
    names, of_class = _numbered_classes(classes, len(numbers))
    cells: Tensor
    occurring, cells, counts = (numbers * len(names) + of_class).unique(return_inverse=True, return_counts=True)
    if len((occurring % len(names)).unique()) == len(occurring):
        raise ValueError(
            "`balance` needs classes that occur in more than one group, got one group per class, so these rows do not separate "
            "group and class. Use auxiliary data from another source"
        )
    cells_in_all = len(values) * len(names)
    absent = cells_in_all - len(occurring)
    single = int((counts == 1).sum())
    if absent or single:
        occurring_cells = set(occurring.tolist())
        first = itertools.islice((cell for cell in range(cells_in_all) if cell not in occurring_cells), SHOWN)
        shown = ", ".join(f"({values[cell // len(names)]!r}, {names[cell % len(names)]!r})" for cell in first)
        shown += " ..." if absent > SHOWN else ""
        without = f"{absent} have no row ({shown}), so those groups are compared without those classes" if absent else ""
        alone = f"{single} have one row, which repeats in every cycle" if single else ""
        warn_at_caller(
            f"of {cells_in_all} cells of group and class {' and '.join(filter(None, [without, alone]))}. Add rows to them",
            AuxiliaryDataWarning,
        )
    return cells


def _numbered_classes(classes: list[Hashable], rows: int) -> tuple[list[Hashable], Tensor]:
    if len(classes) != rows:
        raise ValueError(f"`balance` must hold one class per row, got {len(classes)} classes for {rows} rows")
    return numbers_of(classes, "balance")
