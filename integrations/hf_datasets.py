"""Hugging Face datasets: auxiliary batches from a map-style or streamed data set, grouped by its label columns."""

import copy
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from wdpurify import GroupSampler
from wdpurify._checks import check_positive_integer
from wdpurify._rows import refuse_dropped, refuse_reordered
from wdpurify._torch import check_share, derive_seed, generators_in, private_randomness
from wdpurify.exceptions import AuxiliaryDataWarning

from ._extras import install

try:
    from datasets import Dataset, Features, IterableDataset
except ImportError as error:
    raise ImportError(f"this integration needs the datasets library: {install('datasets')}") from error

from ._columns import Labels, cell_of, classes_of_rows, is_one_hot, labelled_rows, rows_of_several_labels
from ._prefetching import PrefetchedSampler
from ._streaming import StreamPlan, StreamSource

#: Column that tells tokens from padding.
MASK = "attention_mask"


def group_sampler(
    dataset: Dataset | IterableDataset,
    *,
    group: str | Sequence[str] | None = None,
    one_hot: Sequence[str] | None = None,
    fixed: Hashable = "all",
    balance: str | None = None,
    image: str | Sequence[str] = "image",
    transform: Callable[[Any], Any] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    unlabelled: str = "raise",
    num_workers: int = 0,
    prefetch: int = 2,
    values: Sequence[Hashable] | None = None,
    buffer_size: int = 1000,
    rank: int | None = None,
    world_size: int | None = None,
) -> PrefetchedSampler:
    """Make a sampler of auxiliary batches from the images and label columns of a data set.

    A ``Dataset`` is drawn in the order of :class:`wdpurify.GroupSampler`: the sampler scans the label columns once, and reads
    an image only when it draws it. It reads an ``IterableDataset`` in shuffled stretches of ``buffer_size`` rows, once for the
    population and once more for the rows of a fixed value, and holds at most two stretches of undecoded rows. It refuses a
    stream with ``shuffle``, because a resumed run would lose the rows in the shuffle buffer.

    Order and augmentation depend on ``seed`` alone, not on ``num_workers``: each row has a separate random seed for its
    transform, and neither the global generators nor those that the transform holds change. Ranks share no row of an epoch.
    ``split_dataset_by_node`` splits a stream between the ranks, unless you split it before; their positions differ, so save
    the state of every rank.

    Args:
        dataset: the auxiliary set. The sampler ignores a format such as ``with_format("torch")``: ``transform`` receives the
            plain columns. It applies a transform from ``Dataset.set_transform`` first.
        group: the label column: booleans, a ``ClassLabel`` (its values are the names), strings or numbers; or several
            columns, for several labels at once, as in :class:`wdpurify.GroupSampler`. A stream takes one column.
        one_hot: in place of ``group`` columns of booleans, 0/1 or -1/1 that make one label, whose values are the column
            names: a row belongs to the column that is set.
        fixed: one label value (for a ``ClassLabel`` the name or the number), or ``"all"``.
        balance: the class column, if classes and groups are dependent: see :class:`wdpurify.GroupSampler`. A stream is
            balanced within each stretch.
        image: the column for the extractor, or several, which it receives as keyword arguments.
        transform: maps a decoded image (the column's value; a dict for several columns) to a tensor or a dict of tensors.
            None makes images float RGB of shape ``(3, height, width)`` in [0, 1] and does not change numbers.
        collate_fn: makes a batch of the list of transformed rows, for example of texts by a tokenizer. With it, a
            ``transform`` of None leaves rows as they are; without it, rows must be tensors of one shape.
        batch_size: rows per group, as in :class:`wdpurify.GroupSampler`.
        seed: seed of the order and of random transforms.
        unlabelled: ``"raise"`` or ``"drop"`` for rows without exactly one label: None, NaN, class -1, or none or more than one
            of the columns of ``one_hot`` set. Of several labels one is enough.
        num_workers: number of processes that decode and transform, plus one that reads a stream; 0 uses this process.
        prefetch: number of batches that each worker prepares ahead, at least 1.
        values: for streams: the label values, in the order of the critic's outputs. Required for ``fixed="all"`` if the
            column is neither boolean nor a ``ClassLabel``; any other label then raises.
        buffer_size: for streams: rows in a stretch, at least 1.
        rank, world_size: this process's share; None reads them from ``torch.distributed`` at the first draw.

    Raises:
        TypeError: if ``dataset`` is neither a ``Dataset`` nor an ``IterableDataset``.
        ValueError: for a missing column, rows without exactly one label, a shuffled stream, a stream without the required
            ``values`` or with a value that does not occur in 100,000 rows, and every case in which
            :class:`wdpurify.GroupSampler` raises. A stream raises errors about rows when it reads them.
    """
    if not isinstance(dataset, Dataset | IterableDataset):
        splits = f". Choose one of its splits {', '.join(map(repr, dataset))}" if isinstance(dataset, dict) else ""
        raise TypeError(f"`dataset` must be a Dataset or an IterableDataset, got {type(dataset).__name__}{splits}")
    columns = [image] if isinstance(image, str) else list(image)
    share = check_share(rank, world_size)
    transformed = isinstance(dataset, Dataset) and dataset.format["type"] == "custom"
    if (group is None) == (one_hot is None):
        raise ValueError("give one of `group` and `one_hot`, the columns of the label")
    for name, given in (("group", group), ("one_hot", one_hot)):
        if given is not None:
            _check_columns(dataset, name, [given] if isinstance(given, str) else list(given))
    if not transformed:
        _check_columns(dataset, "image", columns)
    if columns == ["input_ids"] and MASK in (dataset.column_names or ()):
        message = f"`dataset` has a column {MASK!r}, which the model does not get. Give `image=['input_ids', {MASK!r}]`"
        warnings.warn(message, AuxiliaryDataWarning, stacklevel=2)
    if balance is not None:
        _check_columns(dataset, "balance", [balance])
    if isinstance(one_hot, str):
        raise ValueError(f"`one_hot` must name several columns, got {one_hot!r}. Give `group={one_hot!r}`")
    streams = isinstance(dataset, IterableDataset)
    if group is not None and not isinstance(group, str) and streams and len(group) == 1:
        (group,) = group
    if group is not None and not isinstance(group, str) and (streams or is_one_hot(dataset, group)):
        warnings.warn(
            f"`group={list(group)}` is read as the columns of one label, of which a row has one set. Give `one_hot` for these. "
            "For labels of their own give them as text",
            FutureWarning,
            stacklevel=2,
        )
        group, one_hot = None, group
    prefetch = check_positive_integer("prefetch", prefetch)
    several = group is not None and not isinstance(group, str)
    if several and (fixed != "all" or values is not None):
        raise ValueError("`fixed` and `values` belong to one label, got several columns in `group`. Give one column")
    labels = Labels(dataset, group or one_hot, fixed, values, unlabelled)
    source: Any
    if isinstance(dataset, Dataset):
        numbers, found = rows_of_several_labels(dataset, labels) if several else labelled_rows(dataset, labels)
        known = list(zip(*found.values(), strict=True)) if isinstance(found, dict) else found
        classes = classes_of_rows(dataset, numbers, known, balance, labels.columns)
        order: dict[str, Any] = {"seed": seed, "rank": rank, "world_size": world_size, "balance": classes}
        source = GroupSampler(numbers, found, fixed=labels.fixed, batch_size=batch_size, **order)
        read = (dataset if transformed else dataset.with_format(None).select_columns(columns)).__getitem__
    else:
        sizes: dict[str, Any] = {"batch_size": batch_size, "buffer_size": buffer_size}
        sizes = {name: check_positive_integer(name, size) for name, size in sizes.items()}
        stream = _undecoded(dataset, columns + labels.columns + ([balance] if balance else []))
        source = StreamSource(stream, StreamPlan(labels, labels.fixed, labels.values, seed, **sizes, balance=balance))
        kept = Features({name: dataset.features[name] for name in stream.features}) if dataset.features else None
        read = kept.decode_example if kept else dict
        share = (0, 1) if getattr(dataset, "_distributed", None) else share  # the user has already split the stream
    loader = RowLoader(read, image if isinstance(image, str) else columns, transform, collate_fn)
    return PrefetchedSampler(source, loader, share, seed, workers=num_workers, prefetch=prefetch, across_ranks=world_size != 1)


class RowLoader:
    """Maps rows and seeds to a batch of tensors; worker processes run it."""

    def __init__(
        self,
        read: Any,
        image: str | list[str],
        transform: Callable[[Any], Any] | None,
        collate_fn: Callable[[list[Any]], Any] | None,
    ) -> None:
        self._read = read
        self._image = image
        self._transform = transform or (as_it_is if collate_fn else as_tensor)
        self._collate = collate_fn or _stacked
        self._is_in_order = False
        self._generators: list[Any] | None = None

    def __getitem__(self, job: tuple[Sequence[Any], Sequence[int]]) -> Any:
        if self._generators is None:
            self._generators = generators_in(self._read, self._transform, self._collate)
        rows = [self._load(row, seed) for row, seed in zip(*job, strict=True)]
        given = [copy.copy(row) for row in rows]  # a collator may take entries out
        with private_randomness(torch.device("cpu"), derive_seed(job[1][0], "collate_fn"), self._generators):
            batch = self._collate(rows)
        if self._collate is not _stacked:
            refuse_dropped(batch, len(given))
            if not self._is_in_order:
                places = torch.arange(len(given), device="cpu")
                collated = lambda order: self._collate([copy.copy(given[row]) for row in order.tolist()])  # noqa: E731
                refuse_reordered(collated, places, self._generators)
        self._is_in_order = True
        return batch

    def _load(self, row: Any, seed: int) -> Any:
        # A seed per row makes a row's transform independent of its worker, of earlier rows and of all other generators.
        with private_randomness(torch.device("cpu"), seed, self._generators or ()):
            cells = self._read(int(row) if isinstance(row, Tensor) else row)
            if isinstance(self._image, str):
                return self._transform(cell_of(cells, self._image))
            return self._transform({name: cell_of(cells, name) for name in self._image})


def as_it_is(cell: Any) -> Any:
    """Return the cell; a function with a name, because worker processes receive it."""
    return cell


def as_tensor(cell: Any) -> Any:
    """Convert an image to floats of shape ``(3, height, width)`` in [0, 1], numbers to a tensor, a dict entry by entry."""
    if isinstance(cell, Mapping):
        return {name: as_tensor(value) for name, value in cell.items()}
    if hasattr(cell, "convert"):  # a PIL image, recognised without an import of PIL
        pixels = torch.frombuffer(bytearray(cell.convert("RGB").tobytes()), dtype=torch.uint8)
        return pixels.view(cell.height, cell.width, 3).permute(2, 0, 1) / 255
    try:
        return torch.as_tensor(cell)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`transform` must map the `image` column's {type(cell).__name__} to a tensor, got None. Give `collate_fn` for "
            "rows that make no tensor by themselves, such as texts"
        ) from error


def _stacked(items: list[Any]) -> Any:
    if isinstance(items[0], Mapping):
        return {name: _stacked([item[name] for item in items]) for name in items[0]}
    if odd := [type(item).__name__ for item in items if not isinstance(item, Tensor)]:
        raise TypeError(f"`transform` must return a tensor or a dict of tensors, got {odd[0]}")
    if len(shapes := sorted({tuple(item.shape) for item in items})) > 1:
        raise ValueError(f"`transform` must return one shape for all rows, got {shapes}. Resize, crop or pad the images")
    return torch.stack(items)


def _undecoded(stream: IterableDataset, columns: list[str]) -> IterableDataset:
    if _is_shuffled(getattr(stream, "_ex_iterable", None)):
        raise ValueError("`dataset` must not use `shuffle()`, because resuming loses its buffer. Set `buffer_size` instead")
    if stream.features:
        stream = stream.decode(False).select_columns(list(dict.fromkeys(columns)))
    return stream.with_format(None)


def _is_shuffled(node: Any) -> bool:
    children = [getattr(node, "ex_iterable", None), *getattr(node, "ex_iterables", ())]
    found = type(node).__name__ == "BufferShuffledExamplesIterable"
    return found or any(_is_shuffled(child) for child in children if child is not None)


def _check_columns(dataset: Dataset | IterableDataset, name: str, columns: list[str]) -> None:
    absent = [column for column in columns if column not in (dataset.column_names or columns)]
    if absent or not columns:
        known = dataset.column_names or ["..."]
        alike = get_close_matches(str(absent[0]), known, 1) if absent else []
        example: Any = (alike or known[: 1 if name == "image" else None])[-1]
        example = known[-2:] if name == "one_hot" else example
        raise ValueError(
            f"`{name}` must be columns of `dataset`, got {absent}. Choose from {dataset.column_names}, for example "
            f"`{name}={example!r}`"
        )
