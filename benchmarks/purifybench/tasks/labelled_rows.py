"""A task from rows that are all at hand with class and nuisance, and nuisances given to rows that came without one."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from ._types import Split, Task
from .cells import Sizes, partner, split_cells
from .pictures import _task

#: Factor by which all splits shrink until every cell has enough rows.
SHRINK = 0.95


def task_of_rows(
    name: str,
    images: Tensor,
    labels: Tensor,
    groups: Tensor,
    *,
    names: Sequence[str],
    group_names: Sequence[str],
    bias: float,
    sizes: Sizes,
    seed: int,
    columns: Mapping[str, Sequence[Hashable]] | None = None,
) -> Task:
    """The task whose class i is paired with nuisance i in the share ``bias`` of its training rows; tests as for pictures.

    Args:
        name: for tables.
        images: bytes or floats, the first dimension being the rows'.
        labels, groups: class and nuisance of each row, int64, shape ``(rows,)``.
        names, group_names: what the numbers stand for.
        bias: share in [0, 1].
        sizes: rows of the splits; all of them shrink alike where a cell has too few.
        seed: which rows.
        columns: labels of each row by name of their column, for the auxiliary rows.

    Raises:
        ValueError: if there are too few rows for the smallest splits.
    """
    sizes = fitting(sizes, labels, groups, bias=bias)
    parts = split_cells(labels, groups, bias=bias, sizes=sizes, seed=seed)

    def split(rows: Tensor) -> Split:
        return Split(images[rows], labels[rows], groups[rows])

    task = replace(_task(parts, split, names, group_names), name=name)
    if columns is None:
        return task
    chosen = {column: [values[row] for row in parts.auxiliary.tolist()] for column, values in columns.items()}
    return replace(task, auxiliary=replace(task.auxiliary, columns=chosen))


def fitting(sizes: Sizes, labels: Tensor, groups: Tensor, *, bias: float) -> Sizes:
    """The sizes, or the largest smaller ones in the same proportions for which each cell has enough rows.

    Raises:
        ValueError: if there are too few rows for the smallest splits.
    """
    least = (int(labels.max()) + 1) * (int(groups.max()) + 1)
    wanted = asdict(sizes)
    while True:
        try:
            split_cells(labels, groups, bias=bias, sizes=sizes, seed=0)
        except ValueError:
            if max(wanted.values()) <= least:
                raise
            wanted = {name: max(least, SHRINK * rows) for name, rows in wanted.items()}
            sizes = Sizes(**{name: int(rows) for name, rows in wanted.items()})
        else:
            return sizes


def assigned_nuisances(labels: Tensor, n_nuisances: int, *, bias: float, sizes: Sizes, generator: torch.Generator) -> Tensor:
    """A nuisance for each row, at random, in the proportions in which `split_cells` asks for the cells of a class.

    Args:
        labels: class of each row, from 0, int64, shape ``(rows,)``.
        n_nuisances: how many there are.
        bias: share in [0, 1] of a class's training rows that have its partner.
        sizes: of the splits.
        generator: where the draws come from.

    Returns:
        Int64, shape ``(rows,)``.
    """
    n_classes = int(labels.max()) + 1
    held_out = (sizes.test_rows + sizes.auxiliary_rows + sizes.validation_rows) / (n_classes * n_nuisances)
    free = max(sizes.rows / (n_classes * n_nuisances), (1 - bias) * sizes.rows / n_classes / max(1, n_nuisances - 1))
    own = max(bias * sizes.rows / n_classes, sizes.rows / (n_classes * n_nuisances))
    groups = torch.empty_like(labels)
    for label in range(n_classes):
        needed = torch.full((n_nuisances,), free + held_out)
        needed[partner(label, n_nuisances)] = own + held_out
        rows = (labels == label).nonzero()[:, 0]
        ends = (needed.cumsum(0) / needed.sum() * len(rows)).round().long()
        place = torch.searchsorted(ends, torch.arange(len(rows)), right=True).clamp(max=n_nuisances - 1)
        groups[rows[torch.randperm(len(rows), generator=generator)]] = place
    return groups
