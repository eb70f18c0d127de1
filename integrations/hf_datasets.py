"""Auxiliary batches from a Hugging Face data set, map-style or streamed, grouped by the label in its columns."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wdpurify import GroupSampler
from wdpurify._checks import check_positive_integer
from wdpurify._torch import checked_share, private_randomness

try:
    from datasets import Dataset, Features, IterableDataset
except ImportError as error:
    raise ImportError('this integration needs the datasets library: pip install "wdpurify[datasets]"') from error

from ._columns import Labels, cell_of, classes_of_rows, labelled_rows
from ._prefetching import PrefetchedSampler
from ._streaming import StreamPlan, StreamSource


def group_sampler(
    dataset: Dataset | IterableDataset,
    *,
    group: str | Sequence[str],
    fixed: Hashable = "all",
    balance: str | None = None,
    image: str | Sequence[str] = "image",
    transform: Callable[[Any], Any] | None = None,
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
    """A sampler of auxiliary batches, by the label that stands in the columns of a data set.

    A ``Dataset`` is drawn from as :class:`wdpurify.GroupSampler` draws: its label columns are scanned once, and no image is
    read before its turn. An ``IterableDataset`` is read in stretches of ``buffer_size`` rows, each shuffled, once for the
    population and once more for the rows of a fixed value: at most two stretches of undecoded rows are held. Its own
    ``shuffle`` is refused, since what its buffer holds would be lost on resuming.

    Order and augmentation depend on ``seed`` alone, not on ``num_workers``: every row is transformed with random numbers of
    its own, and the global generators are left alone. Ranks share no row of an epoch. A stream is split between them by
    ``split_dataset_by_node``, unless it was split before; their positions differ, so save the state of every rank.

    Args:
        dataset: the auxiliary set. A format such as ``with_format("torch")`` is not applied: ``transform`` gets what the
            plain columns hold. A transform set on a ``Dataset`` by ``set_transform`` is applied first.
        group: the label column: booleans, a ``ClassLabel`` (its values are the names), strings or integers; or several
            columns of booleans, 0/1 or -1/1, whose values are the column names: a row belongs to the one that is set.
        fixed: one label value (for a ``ClassLabel`` its number will do), or ``"all"``.
        balance: the column of the classes, where they go with the groups: see :class:`wdpurify.GroupSampler`. A stream is
            balanced within each stretch.
        image: the column that the extractor gets, or several, which it gets by keyword.
        transform: makes a decoded image (whatever the column holds; a dict for several columns) a tensor, or a dict of
            tensors. None makes images float RGB of shape ``(3, height, width)`` in [0, 1] and takes numbers as they are.
        batch_size: rows per group, as in :class:`wdpurify.GroupSampler`.
        seed: seed of the order and of random transforms.
        unlabelled: ``"raise"`` or ``"drop"`` for rows without one label: None, NaN, class -1, none of several columns set, or
            more than one.
        num_workers: processes that decode and transform, one more that reads a stream; 0 does all in ``next_batch()``.
        prefetch: batches that each worker prepares ahead, at least 1.
        values: for streams: the label values, in the order of the critic's outputs. Needed for ``fixed="all"`` where the
            column is neither boolean nor a ``ClassLabel``; once given, any other label raises.
        buffer_size: for streams: rows in a stretch, at least 1.
        rank, world_size: this process's share; None takes those of ``torch.distributed`` at the first draw.

    Raises:
        TypeError: if ``dataset`` is of neither kind.
        ValueError: for an unknown column, rows without one label, a stream that is shuffled, whose values are not known or do
            not occur in 100,000 rows, and whatever :class:`wdpurify.GroupSampler` refuses. For its rows a stream raises when it
            comes to them.
    """
    if not isinstance(dataset, Dataset | IterableDataset):
        splits = f"; choose one of its splits {', '.join(map(repr, dataset))}" if isinstance(dataset, dict) else ""
        raise TypeError(f"`dataset` must be a Dataset or an IterableDataset, got {type(dataset).__name__}{splits}")
    columns = [image] if isinstance(image, str) else list(image)
    share = checked_share(rank, world_size)
    transformed = isinstance(dataset, Dataset) and dataset.format["type"] == "custom"
    _check_columns(dataset, "group", [group] if isinstance(group, str) else list(group))
    if not transformed:
        _check_columns(dataset, "image", columns)
    if balance is not None:
        _check_columns(dataset, "balance", [balance])
    labels = Labels(dataset, group, fixed, values, unlabelled)
    prefetch = check_positive_integer("prefetch", prefetch)
    source: Any
    if isinstance(dataset, Dataset):
        numbers, found = labelled_rows(dataset, labels)
        classes = classes_of_rows(dataset, numbers, found, balance, labels.columns)
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
        share = (0, 1) if getattr(dataset, "_distributed", None) else share  # split by the user
    loader = RowLoader(read, image if isinstance(image, str) else columns, transform)
    return PrefetchedSampler(source, loader, share, seed, workers=num_workers, prefetch=prefetch, across_ranks=world_size != 1)


class RowLoader:
    """Makes a job of rows and seeds a batch of tensors; this is what runs in the worker processes."""

    def __init__(self, read: Any, image: str | list[str], transform: Callable[[Any], Any] | None) -> None:
        self._read = read
        self._image = image
        self._transform = as_tensor if transform is None else transform

    def __getitem__(self, job: tuple[Sequence[Any], Sequence[int]]) -> Any:
        return _stacked([self._load(row, seed) for row, seed in zip(*job, strict=True)])

    def _load(self, row: Any, seed: int) -> Any:
        # Random numbers of its own for each row: alike whoever loads it, whatever was loaded before, and never the user's.
        with private_randomness(torch.device("cpu"), seed):
            cells = self._read(int(row) if isinstance(row, Tensor) else row)
            if isinstance(self._image, str):
                return self._transform(cell_of(cells, self._image))
            return self._transform({name: cell_of(cells, name) for name in self._image})


def as_tensor(cell: Any) -> Any:
    """An image as floats of shape ``(3, height, width)`` in [0, 1]; numbers as they are; a dict of either likewise."""
    if isinstance(cell, Mapping):
        return {name: as_tensor(value) for name, value in cell.items()}
    if hasattr(cell, "convert"):  # a PIL image, told without importing PIL
        pixels = torch.frombuffer(bytearray(cell.convert("RGB").tobytes()), dtype=torch.uint8)
        return pixels.view(cell.height, cell.width, 3).permute(2, 0, 1) / 255
    try:
        return torch.as_tensor(cell)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`transform` must make a tensor of what `image` holds, a {type(cell).__name__}") from error


def _stacked(items: list[Any]) -> Any:
    if isinstance(items[0], Mapping):
        return {name: _stacked([item[name] for item in items]) for name in items[0]}
    if odd := [type(item).__name__ for item in items if not isinstance(item, Tensor)]:
        raise TypeError(f"`transform` must return a tensor or a dict of tensors, got {odd[0]}")
    if len(shapes := sorted({tuple(item.shape) for item in items})) > 1:
        raise ValueError(f"`transform` must give all rows one shape, got {shapes}: resize, crop or pad")
    return torch.stack(items)


def _undecoded(stream: IterableDataset, columns: list[str]) -> IterableDataset:
    if _is_shuffled(getattr(stream, "_ex_iterable", None)):
        raise ValueError("`dataset` must come without `shuffle()`, whose buffer is lost on resuming: set `buffer_size` instead")
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
        raise ValueError(f"`{name}` must name columns of `dataset`, got {absent}; it has {dataset.column_names}")
