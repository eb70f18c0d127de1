"""Which rows of a set with a class and a nuisance per row go where: a biased training split, and splits of equal cells."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class Parts:
    """Row numbers of the splits, int64. `upper` may share rows with `train`, `validation` is part of `oracle`; no others do.

    Attributes:
        train: biased.
        upper: as many rows without a bias.
        auxiliary, oracle, test: each (class, nuisance) cell equally often.
        validation: rows of `oracle` with the training bias.
    """

    train: Tensor
    upper: Tensor
    auxiliary: Tensor
    validation: Tensor
    oracle: Tensor
    test: Tensor


def partner(label: int, n_nuisances: int) -> int:
    """The nuisance that goes with a class: the one of its number, from the first again where there are fewer."""
    return label % n_nuisances


def split_cells(labels: Tensor, groups: Tensor, *, bias: float, sizes: Sizes, seed: int) -> Parts:
    """Draw the splits.

    Args:
        labels: class of each row, from 0, int64, shape ``(rows,)``.
        groups: nuisance of each row, from 0, int64, shape ``(rows,)``.
        bias: share in [0, 1] of each class's training rows that have its partner; the others have the other nuisances in turn.
        sizes: of the splits.
        seed: which rows.

    Raises:
        ValueError: if there is one class or nuisance alone, or a cell has fewer rows than are asked of it.
    """
    shape = int(labels.max()) + 1, int(groups.max()) + 1
    if min(shape) < 2:
        raise ValueError(f"two classes and two nuisances are needed at least, got {shape[0]} and {shape[1]}")
    each = _rows_per_cell(sizes, shape)
    biased = _biased_counts(sizes.rows // shape[0], shape, bias)
    held_out = each["test_rows"] + each["auxiliary_rows"] + each["validation_rows"]
    cells = _shuffled_cells(labels, groups, shape, seed)
    for (label, group), rows in cells.items():
        needed = held_out + max(biased[label, group], each["rows"])
        if len(rows) < needed:
            raise ValueError(f"class {label} with nuisance {group} has {len(rows)} rows and needs {needed}: ask for fewer rows")

    def part(first: int, counts: Counts) -> Tensor:
        return torch.tensor([row for cell, rows in cells.items() for row in rows[first : first + counts[cell]]])

    first_validation = each["test_rows"] + each["auxiliary_rows"]
    return Parts(
        train=part(held_out, biased),
        upper=part(held_out, dict.fromkeys(cells, each["rows"])),
        auxiliary=part(each["test_rows"], dict.fromkeys(cells, each["auxiliary_rows"])),
        validation=part(first_validation, _biased_within(each["validation_rows"], shape, bias)),
        oracle=part(first_validation, dict.fromkeys(cells, each["validation_rows"])),
        test=part(0, dict.fromkeys(cells, each["test_rows"])),
    )


def _rows_per_cell(sizes: Sizes, shape: tuple[int, int]) -> dict[str, int]:
    count = shape[0] * shape[1]
    for name, rows in asdict(sizes).items():
        if rows < count:
            raise ValueError(f"`{name}` must be at least {count}, one per class and nuisance, got {rows}")
    return {name: rows // count for name, rows in asdict(sizes).items()}


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
