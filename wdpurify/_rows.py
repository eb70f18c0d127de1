"""Reads auxiliary rows by number and collates some of them to a batch."""

from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ._torch import leaves_of, private_randomness

#: Makes a batch of a list of rows.
Collator = Callable[[list[Any]], Any]


def by_position(rows: Any) -> Any:
    """Return rows that can be indexed by number; raises TypeError for a mapping or a set.

    A pandas column becomes its ``iloc``, because its index may have gaps or another order.
    """
    if isinstance(rows, Mapping | Set):
        raise TypeError(
            f"`rows` must be indexed by row number, in the order of `groups`, got {type(rows).__name__}. Give "
            "`list(rows.values())`, or, for rows with several inputs, a data set whose items are dicts"
        )
    return getattr(rows, "iloc", rows)


def batch_of(rows: Any, numbers: Tensor, collate_fn: Collator | None = None) -> Any:
    """Collate some rows to one batch.

    Args:
        rows: result of :func:`by_position`; an item may be a tuple whose first member is the input.
        numbers: of the rows, int64, shape ``(batch,)``.
        collate_fn: function of the list of whole items. A list that it makes of tuples, one entry per member, becomes a tuple.

    Raises:
        TypeError, RuntimeError, ValueError: if the types or sizes of the items do not allow a batch, or if the items begin
            with their number.
    """
    if collate_fn is not None:
        items = [rows[row] for row in numbers.tolist()]
        batch = collate_fn(items)
        per_member = type(batch) is list and isinstance(items[0], tuple) and len(batch) == len(items[0])
        return tuple(batch) if per_member and isinstance(batch[0], Tensor) else batch
    if isinstance(rows, Tensor):
        return rows[numbers.to(rows.device)]
    if type(rows).__module__ == "numpy" and not rows.dtype.hasobject:
        drawn = rows[numbers.numpy()]
        return drawn.tolist() if drawn.dtype.kind in "US" else torch.from_numpy(drawn.astype(drawn.dtype.newbyteorder("=")))
    items = [rows[row] for row in numbers.tolist()]
    if all(isinstance(item, PurePath) for item in items):
        return items
    _refuse_numbered(items, numbers)
    try:
        return default_collate([item[0] if isinstance(item, tuple) else item for item in items])
    except (TypeError, RuntimeError, ValueError) as error:
        raise type(error)(
            "`rows` must hold items that collate to a batch, such as tensors of one shape. Give the data set the task's "
            "transform, or `collate_fn` for rows of several lengths, or, for a Hugging Face data set, use "
            f"`wdpurify.integrations.hf_datasets.group_sampler(..., transform=...)`. Collating failed with: {error}"
        ) from error


def refuse_dropped(batch: Any, rows: int) -> None:
    """Raise ValueError for a batch that has fewer rows than were drawn: rows and groups may no longer correspond.

    Args:
        batch: of tensors or texts, after collator and transform; a tensor with an axis of that length has its rows there.
        rows: number of drawn rows.
    """
    leaves = leaves_of(batch)
    lengths = [len(leaf) for leaf in leaves if _is_plain(leaf) and leaf.ndim > 0 and rows not in leaf.shape]
    if isinstance(batch, list) and leaves and all(isinstance(leaf, str) for leaf in leaves):
        lengths = [len(leaves)]
    elif len(lengths) < len(leaves) or (isinstance(batch, list) and len(batch) == rows):
        return
    if lengths and max(lengths) < rows:
        raise ValueError(
            f"`collate_fn` and `transform` must keep every row, got {max(lengths)} rows of {rows} drawn, so rows and groups no "
            "longer correspond. Leave rows that cannot be read out of `rows` and `groups`, or give NaN in their place"
        )


def refuse_reordered(make: Callable[[Tensor], Any], rows: Tensor, generators: Sequence[Any] = ()) -> None:
    """Raise ValueError if collator and transform give rows in another order than they came, such as sorted by length.

    The rows are made a batch in their order and in reverse, under equal random numbers: the second batch must be the reverse
    of the first. The check finds nothing if random numbers change the rows themselves, or an input has not one entry per row.

    Args:
        make: makes a batch of row numbers.
        rows: row numbers, int64, shape ``(batch,)``.
        generators: random generators of collator and transform beside the global ones.
    """
    batches = []
    for order in (rows, rows.flip(0)):
        with private_randomness(torch.device("cpu"), 0, generators):
            batches.append(_entries(make(order), len(rows)))
    if not all(_has_rows(leaf, len(rows)) for leaf in batches[0] + batches[1]):
        return
    # Bytes can be compared whatever the dtype, NaN too.
    first, second = [[_as_bytes(leaf, len(rows)) for leaf in batch] for batch in batches]
    pairs = list(zip(first, second, strict=False))
    varied = [pair for pair in pairs if 2 * len(pair[0].unique(dim=0)) > len(rows)]  # few different rows tell nothing
    moved = [pair for pair in varied if not torch.equal(*pair)] or varied  # some entries are no rows but places
    kept = any(len(one.unique(dim=0)) > 1 and torch.equal(one, other.flip(0)) for one, other in pairs)
    if not kept and moved and all(_has_the_same_rows(*pair) for pair in moved):
        raise ValueError(
            "`collate_fn` and `transform` must keep the order of the rows, got rows in another order, so rows and groups no "
            "longer correspond. Leave out what sorts or shuffles, for example by `enforce_sorted=False` for packed sequences"
        )


def _entries(batch: Any, count: int) -> list[Any]:
    """Return the leaves of a batch; texts become numbers, in one tensor per list with one text per row."""
    leaves = leaves_of(batch)
    texts = [hash(leaf) for leaf in leaves if isinstance(leaf, str)]
    others = [leaf for leaf in leaves if not isinstance(leaf, str)]
    return others + (texts if len(texts) % count else list(torch.tensor(texts, device="cpu").view(-1, count)))


def _as_bytes(leaf: Tensor, count: int) -> Tensor:
    return leaf.detach().resolve_conj().resolve_neg().reshape(count, -1).contiguous().view(torch.uint8)


def _is_plain(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout == torch.strided and not leaf.is_nested


def _has_rows(leaf: Any, count: int) -> bool:
    return _is_plain(leaf) and leaf.shape[:1] == (count,) and leaf.numel() > 0


def _has_the_same_rows(one: Tensor, other: Tensor) -> bool:
    sorted_rows = [batch.unique(dim=0, return_counts=True) for batch in (one, other)]
    return all(torch.equal(*each) for each in zip(*sorted_rows, strict=True))


def _refuse_numbered(items: list[Any], rows: Tensor) -> None:
    """Raise TypeError for tuples that begin with a whole number, where a later member is more likely the input.

    This is a tensor, array or picture with dimensions, or a tensor behind Python integers that are the row numbers.
    """
    if not all(isinstance(item, tuple) and _is_whole_number(item[0]) for item in items):
        return
    numbered = [item[0] for item in items] == rows.tolist() and all(type(item[0]) is int for item in items)
    later = [place for place, member in enumerate(items[0]) if _has_dimensions(member)]
    later += [place for place, member in enumerate(items[0]) if place and numbered and isinstance(member, Tensor)]
    if later:
        kinds = ", ".join(type(member).__name__ for member in items[0])
        raise TypeError(
            f"`rows` holds tuples ({kinds}) that begin with a whole number, and the model would get only this number. Give "
            f"`collate_fn=lambda rows: torch.utils.data.default_collate([row[{later[0]}] for row in rows])`, or "
            "`collate_fn=torch.utils.data.default_collate` for a model that takes every member"
        )


def _is_whole_number(member: Any) -> bool:
    if isinstance(member, Tensor):
        return member.ndim == 0 and not member.is_floating_point()
    return hasattr(member, "__index__") and getattr(member, "ndim", 0) == 0


def _has_dimensions(member: Any) -> bool:
    return getattr(member, "ndim", 0) > 0 or hasattr(member, "convert")  # a PIL image, recognised without an import of PIL
