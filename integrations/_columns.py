"""Reads the group and the class of each row from the columns of a data set."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from datasets import ClassLabel, Dataset, IterableDataset
from torch import Tensor

from wdpurify._balance import warn_if_confounded
from wdpurify._checks import check_choice

MISSING = "missing"
AMBIGUOUS = "ambiguous"
#: Largest number of different integers in a column of that name that are taken for classes, and not for row numbers.
MOST_CLASSES = 1000
#: Usual names of the class column; another `ClassLabel` column may be a nuisance.
CLASSES = ("label", "labels", "class", "target")


class Labels:
    """Reads the label of a row from its group columns, by the rules of :func:`group_sampler`."""

    def __init__(self, dataset: Any, group: Any, fixed: Hashable, values: Any, unlabelled: str) -> None:
        self.columns: list[str] = [group] if isinstance(group, str) else list(group)
        self._one_hot = not isinstance(group, str)
        self.drops = check_choice("unlabelled", unlabelled, ("raise", "drop")) == "drop"
        feature = (dataset.features or {}).get(self.columns[0]) if not self._one_hot else None
        self._names: list[str] = feature.names if isinstance(feature, ClassLabel) else []
        inherent = tuple(self._names or (self.columns if self._one_hot else ()))
        if getattr(feature, "dtype", None) == "bool":
            inherent = (False, True)
        if values is not None and isinstance(dataset, Dataset):
            raise ValueError("`values` is for streams, got a Dataset. Leave it out, because the sampler scans a Dataset")
        self.values: tuple[Hashable, ...] | None = tuple(values or inherent) or None
        number = fixed if isinstance(fixed, int) and not isinstance(fixed, bool) else -1
        self.fixed = self._names[number] if 0 <= number < len(self._names) else fixed
        if isinstance(dataset, IterableDataset):
            self._check_stream()
        self._alike = {value: value for value in self.values or (self.fixed,)}  # maps a column's 1 to True, and the reverse

    def _check_stream(self) -> None:
        if self.fixed == "all" and not self.values:
            raise ValueError('`values` must list the labels of a stream with `fixed="all"`, got none. Give all label values')
        if self.fixed != "all" and self.values and self.fixed not in self.values:
            raise ValueError(f"`fixed` must be a label value of {list(self.values)}, got {self.fixed!r}")

    def of(self, row: Mapping[str, Any], counts: Counter[str]) -> Hashable:
        """Return the label of a row, or None for a dropped row, and count the row in ``counts``."""
        cells = [cell_of(row, name) for name in self.columns]
        label, fault = self._read([cell.item() if isinstance(cell, Tensor) else cell for cell in cells])
        if fault:
            if not self.drops:
                shown = dict(zip(self.columns, cells, strict=True))
                where = f'row {counts.total()} ({shown}). Leave such rows out with `unlabelled="drop"`'
                name = "one_hot" if self._one_hot else "group"
                raise ValueError(f"`{name}` must hold one label per row, but it is {fault} in {where}")
            counts[f"dropped as {fault}"] += 1
            return None
        if self.values and label not in self._alike:
            raise ValueError(f"`values` must list every label that occurs, got {list(self.values)} and a row with {label!r}")
        label = self._alike.get(label, label)
        counts[repr(label) if len(counts) < 1000 or label in self._alike else "others"] += 1
        return label

    def _read(self, cells: list[Any]) -> tuple[Hashable, str]:
        if any(cell is None or cell != cell for cell in cells):
            return None, MISSING
        if self._one_hot:
            for column, cell in zip(self.columns, cells, strict=True):
                if cell not in (True, False, -1):
                    raise ValueError(f"`one_hot` column {column!r} must hold booleans, 0/1 or -1/1, got {cell!r}")
            chosen = [column for column, cell in zip(self.columns, cells, strict=True) if cell == 1]
            return (chosen[0], "") if len(chosen) == 1 else (None, AMBIGUOUS if chosen else MISSING)
        (cell,) = cells
        if self._names:  # datasets stores a missing class as -1
            return (self._names[cell], "") if cell >= 0 else (None, MISSING)
        if isinstance(cell, list | dict):
            raise TypeError(f"`group` column {self.columns[0]!r} must hold one label per row, got a {type(cell).__name__}")
        return cell, ""


def labelled_rows(dataset: Dataset, labels: Labels) -> tuple[Tensor, list[Hashable]]:
    """Return the rows with a label, int64, shape ``(n,)``, and their labels; raises ValueError if there are none."""
    cells = dataset.with_format(None).select_columns(labels.columns)[:]
    counts = Counter[str]()
    rows = (dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True))
    found = [(number, label) for number, row in enumerate(rows) if (label := labels.of(row, counts)) is not None]
    if not found:
        raise ValueError(f"`group` must label some of the {len(dataset)} rows of `dataset`, got none: {dict(counts)}")
    return torch.tensor([number for number, _ in found], device="cpu"), [label for _, label in found]


def is_one_hot(dataset: Dataset, columns: Sequence[str]) -> bool:
    """Whether columns hold booleans, 0/1 or -1/1, and no row has more than one of them set."""
    if len(columns) < 2 or any(isinstance(dataset.features[name], ClassLabel) for name in columns):
        return False
    cells = dataset.with_format(None).select_columns(list(columns))[:].values()
    rows = list(zip(*cells, strict=True))
    flags = all(cell in (0, 1, -1, None) for row in rows for cell in row)
    return flags and all(sum(cell == 1 for cell in row) <= 1 for row in rows)


def rows_of_several_labels(dataset: Dataset, labels: Labels) -> tuple[Tensor, dict[str, list[Hashable]]]:
    """Return the rows with a label in at least one column, int64, shape ``(n,)``, and their labels by column.

    Raises:
        ValueError: for a row without any label, unless such rows are dropped, and if no row has one.
    """
    columns: dict[str, list[Hashable]] = {}
    for name in labels.columns:
        of_one = Labels(dataset, name, "all", None, "drop")
        cells = dataset.with_format(None).select_columns([name])[:][name]
        columns[name] = [of_one.of({name: cell}, Counter()) for cell in cells]
    any_label = torch.tensor([any(label is not None for label in row) for row in zip(*columns.values(), strict=True)])
    if not labels.drops and not any_label.all():
        row = int(any_label.int().argmin())
        raise ValueError(f'`group` has no label in row {row}. Leave such rows out with `unlabelled="drop"`')
    if not any_label.any():
        raise ValueError(f"`group` must label some of the {len(dataset)} rows of `dataset`, got none")
    rows = any_label.nonzero()[:, 0]
    return rows, {name: [column[row] for row in rows.tolist()] for name, column in columns.items()}


def classes_of_rows(
    dataset: Dataset, rows: Tensor, groups: list[Hashable], balance: str | None, group: list[str]
) -> list[Hashable] | None:
    """Return the classes to balance over; without ``balance``, warn if the data set's classes depend on the groups."""
    known = [name for name in CLASSES if _may_be_classes(dataset.features.get(name)) and name not in group]
    for name in [balance] if balance else known:
        column = dataset.with_format(None).select_columns([name])[:][name]
        classes = [column[row] for row in rows.tolist()]
        if balance:
            missing = (None, -1) if isinstance(dataset.features[name], ClassLabel) else (None,)  # an integer column may use -1
            unknown = next((row for row, value in zip(rows.tolist(), classes, strict=True) if value in missing), None)
            if unknown is not None:
                raise ValueError(
                    f"`balance` column {balance!r} has no class in row {unknown}. Leave such rows out of `dataset`"
                )
            return classes
        if all(value is not None and value >= 0 for value in classes) and len(set(classes)) <= MOST_CLASSES:
            warn_if_confounded(groups, classes, f"Set `balance={name!r}` to draw evenly")
    return None


def _may_be_classes(feature: Any) -> bool:
    return isinstance(feature, ClassLabel) or str(getattr(feature, "dtype", "")).startswith("int")


def cell_of(row: Mapping[str, Any], name: str) -> Any:
    """Return the cell of a column, or raise ValueError if the row lacks the column."""
    if name not in row:
        raise ValueError(f"`dataset` has no column {name!r}. Choose from {', '.join(map(repr, row))}")
    return row[name]
