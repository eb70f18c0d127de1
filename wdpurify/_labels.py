"""Reads and checks the labels of auxiliary rows."""

import math
from bisect import bisect_right
from collections.abc import Hashable, Mapping, Set
from decimal import Decimal
from numbers import Integral, Number
from typing import Any

import torch
from torch import Tensor

from ._diagnostics import warn_at_caller
from .exceptions import AuxiliaryDataWarning

#: Number of label values above which a column may be continuous, and above which a warning states their cost.
FEW_GROUPS = 10
MANY_GROUPS = 100
#: Number of different numbers from which a column counts as a quantity, and number of ranges into which it is cut.
MANY_NUMBERS = 20
RANGES = 4
#: Share of one value that triggers a check for batches with this value alone, and the share of such batches that is too much.
LONE_VALUE = 0.9
LONE_BATCHES = 0.1


def labels_of_rows(groups: Any, name: str = "groups") -> list[Hashable]:
    """Convert labels to a list in the order of the rows; ignores the index of a pandas column.

    Args:
        groups: one label per row.
        name: name of the argument, for messages.

    Raises:
        TypeError: for a mapping or a set, whose rows have no order.
        ValueError: for more than one dimension.
    """
    if isinstance(groups, Mapping | Set):
        remedy = "Give a list of labels in the order of the rows"
        if isinstance(groups, Mapping):
            by_number = all(isinstance(key, Integral) for key in groups)
            items = f"`[{name}[row] for row in range(len(rows))]`"
            if not by_number:
                items = f"`[{name}[name] for name in names]`, with the rows' names in their order"
            remedy = f"For a mapping from rows to labels give {items}"
        raise TypeError(
            f"`{name}` must hold one label per row, in the order of the rows, got {type(groups).__name__}. {remedy}"
        )
    if hasattr(groups, "ndim") and groups.ndim != 1:
        raise ValueError(f"`{name}` must have shape (rows,), got {tuple(groups.shape)}")
    read = getattr(groups, "to_pylist", getattr(groups, "tolist", None))  # the first of Arrow's columns
    if getattr(getattr(groups, "dtype", None), "kind", "") in ("M", "m"):  # NumPy's `tolist` makes numbers of dates
        read = None
    return [plain_label(label) for label in (read() if callable(read) else groups)]


def plain_label(label: Any) -> Any:
    """Return the Python number of a NumPy number or of a tensor with no dimensions."""
    is_number = isinstance(label, Number) and hasattr(label, "item")
    return label.item() if is_number or (isinstance(label, Tensor) and label.ndim == 0) else label


def is_missing(label: Any) -> bool:
    """Whether a label is None, NaN of any kind, or a marker like pandas' NA, whose comparison raises an error."""
    try:
        return label is None or bool(label != label)
    except (TypeError, ValueError):
        return isinstance(label, Hashable)


def numbers_of(labels: list[Hashable], name: str = "groups") -> tuple[list[Hashable], Tensor]:
    """Number the label values in the order of their first occurrence.

    Args:
        labels: one label per row.
        name: name of the argument, for messages.

    Returns:
        The values, and the number of each row's value, int64, shape ``(rows,)``.

    Raises:
        ValueError: if a label is missing, or is a tensor with dimensions.
        TypeError: if a label is not hashable, or its ``repr`` differs between processes.
    """
    numbers: dict[Hashable, int] = {}
    row_numbers: list[int] = []
    for row, label in enumerate(labels):
        try:
            number = numbers.get(label)
        except TypeError as error:
            raise TypeError(f"`{name}` must hold hashable labels, got {type(label).__name__} in row {row}") from error
        if number is None:
            number = numbers[label] = len(numbers)
            if isinstance(label, Tensor):
                raise ValueError(
                    f"`{name}` must hold one number or text per row, got a tensor of shape {tuple(label.shape)} in row {row}. "
                    f"Give one number, for example `[int(label) for label in {name}]`"
                )
            if is_missing(label):
                raise ValueError(f"`{name}` has no label in row {row} ({label}). Leave such rows out of the auxiliary set")
            if isinstance(label, tuple) and any(part is not None and is_missing(part) for part in label):
                raise ValueError(
                    f"`{name}`: the label of row {row} ({label}) has a missing part. Give the columns themselves, for example "
                    "a data frame of them, or leave such rows out"
                )
            if not _reads_alike_everywhere(label):
                raise TypeError(
                    f"`{name}` must hold labels whose `repr` is equal in every process, because states store it, got "
                    f"{type(label).__name__} in row {row}. Give each value a name or a number"
                )
        row_numbers.append(number)
    return list(numbers), torch.tensor(row_numbers, dtype=torch.int64, device="cpu")


def cut_into_ranges(labels: list[Hashable], name: str = "`groups`") -> list[Hashable]:
    """Replace numbers by the range that each belongs to, if there are more than 20 different ones; warn that this is done.

    The limits are quantiles, so the ranges have about as many rows each. Other labels are returned as they are.

    Args:
        labels: one label per row, none missing.
        name: what the labels are, for the warning.
    """
    numbers = [label for label in labels if isinstance(label, int | float | Decimal) and not isinstance(label, bool)]
    if len(numbers) < len(labels) or len(set(numbers)) <= MANY_NUMBERS or not all(map(math.isfinite, numbers)):
        return labels
    ordered = sorted(numbers)
    above = next(number for number in ordered if number > ordered[0])
    limits = sorted({ordered[len(ordered) * part // RANGES] for part in range(1, RANGES)} - {ordered[0]}) or [above]
    places = [bisect_right(limits, number) for number in numbers]
    members = [
        [number for number, place in zip(numbers, places, strict=True) if place == each] for each in range(len(limits) + 1)
    ]
    names = [f"{min(range_):g} to {max(range_):g}" for range_ in members]
    if len(set(names)) < len(names):
        names = [f"{min(range_)!r} to {max(range_)!r}" for range_ in members]
    warn_at_caller(
        f"{name} has {len(set(numbers))} different numbers, which are cut into ranges: {', '.join(names)}. "
        "To choose other ranges, give text labels, for example of `pd.cut(column, limits).astype(str)`. "
        "If the numbers are codes and no quantity, give them as text, `[str(value) for value in column]`",
        AuxiliaryDataWarning,
    )
    return [names[place] for place in places]


def refuse_single_rows(values: int, *, rows: int, name: str = "`groups`") -> None:
    """Raise ValueError for a label with mostly single rows per value.

    Args:
        values: number of label values.
        rows: number of rows with a label.
        name: what the labels are, for the message.
    """
    if values > max(FEW_GROUPS, rows / 2):
        raise ValueError(
            f"{name} has {values} values in {rows} rows, so most groups are a single row. Leave out names and numbers of "
            "rows. Cut a continuous column into ranges, for example by `pd.qcut(numpy.asarray(column), 4).astype(str)`"
        )


def warn_of_many(values: int, *, batch_size: int) -> None:
    """Warn of more groups than a few batches hold.

    Args:
        values: number of label values.
        batch_size: rows of an auxiliary batch.
    """
    if values > MANY_GROUPS:
        warn_at_caller(
            f"`groups` has {values} values and a batch {batch_size} rows, so each group occurs about once in "
            f"{-(-values // batch_size)} auxiliary batches and is hardly forgotten. Merge rare values, or raise `batch_size`",
            AuxiliaryDataWarning,
        )


def warn_of_a_lone_group(counts: dict[Hashable, int], *, batch_size: int, ranks: int) -> None:
    """Warn if one value is so common that many batches contain only that value.

    Args:
        counts: number of rows of each value.
        batch_size: rows of an auxiliary batch on each rank.
        ranks: number of ranks; their batches together make one joint batch.
    """
    total = sum(counts.values())
    common = max(counts, key=lambda value: counts[value])
    joint = batch_size * ranks
    alone = _share_without_others(counts[common], total, joint)
    if counts[common] > LONE_VALUE * total and alone > LONE_BATCHES:
        sizes = range(joint, counts[common] + ranks, ranks)
        needed = next(size for size in sizes if _share_without_others(counts[common], total, size) <= LONE_BATCHES)
        rarest = min(counts, key=lambda value: counts[value])
        by_itself = f", or fix a rare value by `fixed={rarest!r}`" if counts[rarest] >= joint else ""
        warn_at_caller(
            f"{counts[common] / total:.0%} of the rows are of the group {common!r}, so {alone:.0%} of the batches of {joint} "
            f"rows hold no other group and pull nothing. Raise `batch_size` to {needed // ranks}{by_itself}",
            AuxiliaryDataWarning,
        )


def _share_without_others(rows: int, total: int, batch: int) -> float:
    """Compute the share of batches, drawn without replacement, that hold only rows of one value."""
    if batch > rows:
        return 0.0
    ways = (math.lgamma(count + 1) - math.lgamma(count - batch + 1) for count in (rows, total))
    return math.exp(next(ways) - next(ways))


def _reads_alike_everywhere(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_reads_alike_everywhere(part) for part in value)
    return not isinstance(value, Set) and getattr(type(value), "__repr__", None) is not object.__repr__
