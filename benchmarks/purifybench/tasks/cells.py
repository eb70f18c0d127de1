"""Tasks of rows that have a class and a nuisance each: a biased training split, and splits of equal cells.

Rows that come without a nuisance are given one here.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import product

import torch
from torch import Tensor

from ._types import Auxiliary, Split, Task

#: Factor by which all splits shrink until every cell has enough rows.
SHRINK = 0.95
#: Class and nuisance by number -> rows.
Counts = Mapping[tuple[int, int], int]


@dataclass(frozen=True)
class Sizes:
    """Rows of each split, over all cells; what does not come out even is left out.

    Attributes:
        rows: training rows.
        auxiliary_rows: rows of which the nuisance alone is used.
        validation_rows: rows to choose options by.
        test_rows: rows read once.
    """

    rows: int = 320
    auxiliary_rows: int = 320
    validation_rows: int = 256
    test_rows: int = 320


def partner(label: int, n_nuisances: int) -> int:
    """The nuisance that goes with a class: the one of its number, from the first again where there are fewer."""
    return label % n_nuisances


def split_cells(labels: Tensor, groups: Tensor, *, bias: float, sizes: Sizes, seed: int) -> dict[str, Tensor]:
    """Draw the splits.

    Args:
        labels: class of each row, from 0, int64, shape ``(rows,)``.
        groups: nuisance of each row, from 0, int64, shape ``(rows,)``.
        bias: share in [0, 1] of each class's training rows that have its partner; the others have the other nuisances in turn.
        sizes: of the splits.
        seed: which rows.

    Returns:
        Row numbers, int64. ``train`` is biased, ``upper`` has as many rows without a bias; of ``auxiliary``, ``oracle`` and
        ``test`` each (class, nuisance) cell has equally many; ``validation`` is those rows of ``oracle`` that have the training
        bias. ``upper`` may share rows with ``train``; no other two splits share any.

    Raises:
        ValueError: if there is one class or nuisance alone, or a cell has fewer rows than are asked of it.
    """
    shape = int(labels.max()) + 1, int(groups.max()) + 1
    if min(shape) < 2:
        raise ValueError(f"two classes and two nuisances are needed at least, got {shape[0]} and {shape[1]}")
    count = shape[0] * shape[1]
    for name, rows in asdict(sizes).items():
        if rows < count:
            raise ValueError(f"`{name}` must be at least {count}, one per class and nuisance, got {rows}")
    train, auxiliary, validation, test = (rows // count for rows in astuple(sizes))
    biased = _biased_counts(sizes.rows // shape[0], shape, bias)
    held_out = test + auxiliary + validation
    cells = _shuffled_cells(labels, groups, shape, seed)
    for (label, group), rows in cells.items():
        needed = held_out + max(biased[label, group], train)
        if len(rows) < needed:
            raise ValueError(f"class {label} with nuisance {group} has {len(rows)} rows and needs {needed}: ask for fewer rows")

    def part(first: int, counts: Counts) -> Tensor:
        return torch.tensor([row for cell, rows in cells.items() for row in rows[first : first + counts[cell]]])

    return {
        "train": part(held_out, biased),
        "upper": part(held_out, dict.fromkeys(cells, train)),
        "auxiliary": part(test, dict.fromkeys(cells, auxiliary)),
        "validation": part(test + auxiliary, _biased_within(validation, shape, bias)),
        "oracle": part(test + auxiliary, dict.fromkeys(cells, validation)),
        "test": part(0, dict.fromkeys(cells, test)),
    }


def _biased_counts(rows: int, shape: tuple[int, int], bias: float) -> Counts:
    """Rows per cell, of so many rows per class."""
    n_classes, n_nuisances = shape
    paired = round(bias * rows)
    counts = dict.fromkeys(product(*map(range, shape)), 0)
    for label in range(n_classes):
        own = partner(label, n_nuisances)
        counts[label, own] = paired
        for number in range(rows - paired):
            counts[label, (own + 1 + number % (n_nuisances - 1)) % n_nuisances] += 1
    return counts


def _biased_within(most: int, shape: tuple[int, int], bias: float) -> Counts:
    """As many rows with a bias as there can be with so many per cell at most."""
    rows = most * shape[1]
    while rows and max(_biased_counts(rows, shape, bias).values()) > most:
        rows -= 1
    return _biased_counts(rows, shape, bias)


def _shuffled_cells(labels: Tensor, groups: Tensor, shape: tuple[int, int], seed: int) -> dict[tuple[int, int], list[int]]:
    generator = torch.Generator().manual_seed(seed)
    cells = {}
    for label, group in product(*map(range, shape)):
        rows = ((labels == label) & (groups == group)).nonzero()[:, 0]
        cells[label, group] = rows[torch.randperm(len(rows), generator=generator)].tolist()
    return cells


def task_of_rows(
    name: str,
    images: Callable[[Tensor], Tensor],
    labels: Tensor,
    groups: Tensor,
    *,
    names: Sequence[str],
    group_names: Sequence[str],
    bias: float,
    sizes: Sizes,
    seed: int,
    shrink: bool = True,
    columns: Mapping[str, Sequence[Hashable]] | None = None,
) -> Task:
    """The task whose class i is paired with nuisance i in the share ``bias`` of its training rows.

    Its tests are the rows whose class has its partner (``paired``), and all test rows (``unbiased``).

    Args:
        name: for tables.
        images: the rows of these numbers, bytes or floats.
        labels, groups: class and nuisance of each row, int64, shape ``(rows,)``.
        names, group_names: what the numbers stand for.
        bias: share in [0, 1].
        sizes: rows of the splits.
        seed: which rows.
        shrink: make all splits smaller alike where a cell has too few rows.
        columns: labels of each row by name of their column, for the auxiliary rows.

    Raises:
        ValueError: if there are too few rows.
    """
    sizes = fitting(sizes, labels, groups, bias=bias) if shrink else sizes
    parts = split_cells(labels, groups, bias=bias, sizes=sizes, seed=seed)
    splits = {part: Split(images(rows), labels[rows], groups[rows]) for part, rows in parts.items()}
    test, auxiliary = splits["test"], splits["auxiliary"]
    paired = test.groups == torch.tensor([partner(label, len(group_names)) for label in test.labels.tolist()])
    chosen = {column: [values[row] for row in parts["auxiliary"].tolist()] for column, values in (columns or {}).items()}
    named = [group_names[group] for group in auxiliary.groups.tolist()]
    return Task(
        name=name,
        n_classes=len(names),
        train=splits["train"],
        validation=splits["validation"],
        tests={"paired": Split(test.images[paired], test.labels[paired], test.groups[paired]), "unbiased": test},
        auxiliary=Auxiliary(auxiliary.images, named, fixed=group_names[0], columns=chosen or None),
        upper=splits["upper"],
        oracle=splits["oracle"],
    )


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
