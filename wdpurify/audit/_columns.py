"""Reads a label column: its values, their counts, and whether it can be audited."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wdpurify._labels import cut_into_ranges, is_missing, plain_label

#: A value with fewer rows is left out: five folds need some of it each. Below `SMALL` the column is warned about.
FEWEST = 10
SMALL = 50


@dataclass(frozen=True)
class Column:
    """A label column of the auxiliary set.

    Attributes:
        name: of the column.
        counts: rows per value, the most frequent first.
        missing: rows without a value.
        problem: why the column cannot be audited; empty if it can.
        warnings: what to know before it is used.
    """

    name: str
    counts: dict[str, int]
    missing: int
    problem: str
    warnings: tuple[str, ...]


def describe_column(name: str, cells: Sequence[Any]) -> tuple[Column, Tensor, list[Any]]:
    """Look at a column and number its values.

    Args:
        name: for the messages.
        cells: one value per row; None, NaN and other markers of missing values are missing.

    Returns:
        The column; a number per row, int64, -1 where the value is missing or too rare; the values of the numbers.
    """
    values = [plain(cell) for cell in cells]
    found = Counter(value for value in values if value is not None)
    counts = {str(value): count for value, count in found.most_common()}
    missing = len(values) - found.total()
    kept = sorted((value for value, count in found.items() if count >= FEWEST), key=str)
    number = {value: place for place, value in enumerate(kept)}
    codes = torch.tensor([-1 if value is None else number.get(value, -1) for value in values], dtype=torch.int64)
    warnings = []
    if missing:
        warnings.append(f"{missing} of {len(values)} rows have no value and are left out")
    if rare := [value for value in found if value not in number]:
        shown = ", ".join(map(str, rare[:5])) + (" ..." if len(rare) > 5 else "")
        warnings.append(f"values with fewer than {FEWEST} rows are left out: {shown}")
    if small := [f"{value} ({found[value]})" for value in kept if found[value] < SMALL]:
        warnings.append(f"small groups, few rows to draw from: {', '.join(small)}")
    column = Column(name, dict(list(counts.items())[:50]), missing, _problem(found, kept), tuple(warnings))
    return column, codes, kept


def codes_of(cells: Sequence[Any], values: Sequence[Any]) -> Tensor:
    """Number the cells of another source by ``values``, int64, shape ``(rows,)``; -1 for a missing or another value.

    A number is one value with equal numbers of other types, and with its text: 1 is 1.0, True and "1".
    """
    number = {str(value): place for place, value in enumerate(values)} | {value: place for place, value in enumerate(values)}
    found = [plain(cell) for cell in cells]
    return torch.tensor([-1 if cell is None else number.get(cell, number.get(str(cell), -1)) for cell in found])


def _problem(found: "Counter[Any]", kept: list[Any]) -> str:
    rows = found.total()
    if not rows:
        return "no row has a value"
    if len(found) == 1:
        return f"all rows have the same value, {next(iter(found))}: there are no groups to put together"
    if len(found) > 20 and any(isinstance(value, float) for value in found):
        return f"{len(found)} different numbers: a continuous column; cut it into a few ranges"
    if len(found) > rows / 2:
        return f"{len(found)} values in {rows} rows, nearly one per row: it looks like an identifier"
    if len(kept) < 2:
        return f"fewer than two values have {FEWEST} rows or more"
    return ""


def cut(cells: Sequence[Any], name: str = "`groups`") -> list[Any]:
    """Cut a quantity, such as an age, into ranges like `GroupSampler`; None for a missing cell.

    ``name`` is what the warning calls them.
    """
    known = [None if is_missing(cell) else plain(cell) for cell in cells]
    ranges = iter(cut_into_ranges([cell for cell in known if cell is not None], name))
    return [None if cell is None else next(ranges) for cell in known]


def plain(cell: Any) -> Any:
    """Convert a cell to a plain, hashable value, a whole float to an integer; None for a missing one."""
    value = cell.item() if isinstance(cell, Tensor) else plain_label(cell)
    if isinstance(value, (list, dict, set)):
        raise TypeError(f"`columns` must hold one label per row, got a {type(value).__name__}")
    if is_missing(value):
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value
