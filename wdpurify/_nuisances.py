"""Several nuisance labels at once: columns of labels, whose values share one critic."""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._labels import cut_into_ranges, is_missing, labels_of_rows, numbers_of, refuse_single_rows


class Nuisances(NamedTuple):
    """Columns of labels as numbers.

    Attributes:
        values: name of the column and value, for each output of the critic.
        groups: number of the output for each row and column, int64, shape ``(rows, columns)``; -1 for a missing label.
        combined: the labels of all columns, one tuple per row.
    """

    values: tuple[tuple[Hashable, Hashable], ...]
    groups: Tensor
    combined: list[Hashable]


def columns_of_labels(groups: Any, rows: int) -> dict[Hashable, list[Hashable]] | None:
    """Read columns of labels: a data frame, a mapping from names to columns, a list of columns, an array of two dimensions.

    Args:
        groups: as given by the user.
        rows: number of rows of the auxiliary set.

    Returns:
        The labels by the name or number of their column; None if there is one label per row.

    Raises:
        ValueError: if only some columns have one label per row.
    """
    if hasattr(groups, "columns") and hasattr(groups, "iloc"):
        return {name: labels_of_rows(groups[name]) for name in groups.columns}
    if getattr(groups, "ndim", 1) == 2:
        return {number: labels_of_rows(groups[:, number]) for number in range(groups.shape[1])}
    if isinstance(groups, Mapping):
        columns = groups
    elif isinstance(groups, list | tuple) and len(groups) != rows:
        columns = dict(enumerate(groups))
    else:
        return None
    sized = [not isinstance(column, str) and hasattr(column, "__len__") for column in columns.values()]
    if not (sized and all(sized)):
        return None
    lengths = {name: len(column) for name, column in columns.items()}
    if rows not in lengths.values():
        return None
    if odd := [name for name, length in lengths.items() if length != rows]:
        raise ValueError(
            f"`groups` must hold {rows} labels per column, one per row, got {lengths[odd[0]]} in column {odd[0]!r}. "
            "Give None for a row without one"
        )
    return {name: labels_of_rows(column) for name, column in columns.items()}


def numbered(columns: Mapping[Hashable, list[Hashable]]) -> Nuisances:
    """Number the values of all columns. A column of many numbers is cut into ranges; a missing label counts for no group.

    Raises:
        ValueError: if a column has fewer than two values, or mostly single rows per value.
    """
    values: list[tuple[Hashable, Hashable]] = []
    groups = torch.full((len(next(iter(columns.values()))), len(columns)), -1, dtype=torch.int64, device="cpu")
    cut: list[list[Hashable]] = []
    for place, (name, column) in enumerate(columns.items()):
        present = [row for row, label in enumerate(column) if not is_missing(label)]
        where = f"`groups`, column {name!r},"
        labels = cut_into_ranges([column[row] for row in present], where)
        column_values, numbers = numbers_of(labels)
        refuse_single_rows(len(column_values), rows=len(present), name=where)
        if len(column_values) < 2:
            raise ValueError(f"`groups` needs at least two values in column {name!r}, got {len(column_values)}. Leave it out")
        groups[torch.tensor(present, device="cpu"), place] = len(values) + numbers
        values += [(name, value) for value in column_values]
        whole: list[Hashable] = [None] * len(column)
        for row, label in zip(present, labels, strict=True):
            whole[row] = label
        cut.append(whole)
    return Nuisances(tuple(values), groups, list(zip(*cut, strict=True)))
