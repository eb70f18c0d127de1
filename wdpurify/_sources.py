"""Refuses unusable rows and labels when the sampler is made, with the line to write instead."""

from collections.abc import Callable, Hashable
from pathlib import PurePath
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

HF_SAMPLER = "wdpurify.integrations.hf_datasets.group_sampler"
PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

#: How pandas reads a file of labels, by its ending.
READERS = {
    ".csv": "read_csv({})",
    ".tsv": "read_csv({}, sep='\\t')",
    ".parquet": "read_parquet({})",
    ".json": "read_json({})",
    ".jsonl": "read_json({}, lines=True)",
}


class _Kind(NamedTuple):
    """A kind of unusable argument: a test that imports no library, the problem, and the line to write."""

    matches: Callable[[Any], bool]
    wrong: str
    write: str


#: Kinds of `rows` without rows by number; the first that fits is named.
ROWS = (
    _Kind(
        lambda rows: hasattr(rows, "next_batch") and not hasattr(rows, "__getitem__"),
        "got a sampler, whose batches never end",
        "Give the rows that it was made of",
    ),
    _Kind(lambda rows: isinstance(rows, DataLoader), "got a DataLoader, which gives batches", "Give `rows.dataset`"),
    _Kind(
        lambda rows: _is_a(rows, "IterableDataset"),
        "got a stream, which has no row numbers",
        f"Give `list(rows)` if it fits in memory, or a Hugging Face stream to `{HF_SAMPLER}(rows, group=...)`",
    ),
    _Kind(
        lambda rows: _is_a(rows, "DataFrame"),
        "got a data frame, whose rows are no tensors",
        "Give `torch.tensor(rows[columns].to_numpy(), dtype=torch.float32)` for columns of numbers, or texts as `rows[column]`",
    ),
    _Kind(
        lambda rows: hasattr(rows, "to_pandas") and hasattr(rows, "schema"),
        "got an Arrow table",
        "Give `torch.tensor(rows.to_pandas().to_numpy(), dtype=torch.float32)` for columns of numbers",
    ),
    _Kind(
        lambda rows: _is_sparse(rows),
        "got a sparse matrix",
        "Give `torch.tensor(rows.toarray(), dtype=torch.float32)`",
    ),
    _Kind(
        lambda rows: type(rows).__module__ == "numpy" and rows.dtype.names is not None,
        "got a structured array, whose rows are records",
        "Give `numpy.lib.recfunctions.structured_to_unstructured(rows)` for fields of numbers",
    ),
    _Kind(
        lambda rows: isinstance(rows, Tensor) and rows.is_nested,
        "got a nested tensor, whose rows differ in length",
        "Give `list(rows.unbind())` with a `collate_fn` that pads them",
    ),
    _Kind(
        lambda rows: isinstance(rows, Tensor) and rows.layout != torch.strided,
        "got a sparse tensor",
        "Give `rows.to_dense()`",
    ),
    _Kind(
        lambda rows: hasattr(rows, "filled") and hasattr(rows, "mask"),
        "got a masked array, whose hidden numbers the model would read",
        "Give `rows.filled(0.0)` or another number that stands for a missing one",
    ),
    _Kind(
        lambda rows: not (hasattr(rows, "__getitem__") and hasattr(rows, "__len__")),
        "got an object that cannot be indexed or has no length",
        "Give `list(rows)`, or a data set with `__getitem__` and `__len__`",
    ),
)

#: Kinds of `groups` and `balance` without one label per row.
LABELS = (
    _Kind(
        lambda labels: hasattr(labels, "next_batch") and not hasattr(labels, "__getitem__"),
        "got a sampler, whose batches never end",
        "Give the labels that it was made of",
    ),
    _Kind(
        lambda labels: isinstance(labels, DataLoader),
        "got a DataLoader, which gives batches in an order of its own",
        "Give `[label for _, label in groups.dataset]`",
    ),
    _Kind(
        lambda labels: (isinstance(labels, Dataset) or hasattr(labels, "targets")) and isinstance(labels[0], tuple),
        "got a data set, whose items are rows",
        "Give `[label for _, label in groups]`",
    ),
    _Kind(
        lambda labels: _is_sparse(labels),
        "got a sparse matrix",
        "Give `groups.toarray().ravel().tolist()`",
    ),
    _Kind(
        lambda labels: not (hasattr(labels, "__iter__") or hasattr(labels, "__getitem__")),
        "got a single value or nothing",
        "Give a list of labels in the order of the rows",
    ),
)


def refuse_rows(rows: Any, *, prepared: bool) -> None:
    """Refuse rows that cannot be indexed by number.

    Args:
        rows: the user's argument.
        prepared: whether there is a ``collate_fn`` or ``transform``, which may read files.

    Raises:
        TypeError: with the problem and the line to write.
    """
    if isinstance(rows, str | bytes):
        raise TypeError(
            f"`rows` must hold one entry per row, got the text {rows!r}. Give a list or data set of rows; a Hugging Face "
            f"data set and the names of its columns go to `{HF_SAMPLER}(dataset, image=..., group=...)`"
        )
    for kind in ROWS:
        if kind.matches(rows):
            raise TypeError(f"`rows` must be indexed by row number, {kind.wrong}. {kind.write}")
    first = [] if prepared else _first(rows, 3)
    if first and all(isinstance(row, tuple) and row and _is_path(row[0]) for row in first):
        raise TypeError(
            "`rows` holds paths of pictures with their classes, which nothing opens. Give the data set itself, such as "
            "`ImageFolder(root, transform)`"
        )
    if first and all(map(_is_path, first)):
        raise TypeError(
            "`rows` holds paths of pictures, which nothing opens. Give `collate_fn=lambda paths: "
            'torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])` with the task\'s `transform`'
        )


def refuse_labels(labels: Any, name: str) -> None:
    """Refuse labels that are not one per row: a column's name, masked labels and others.

    Raises:
        TypeError, ValueError: with the problem and the line to write.
    """
    if isinstance(labels, str | PurePath) and (reader := READERS.get(PurePath(labels).suffix.lower())):
        raise TypeError(
            f"`{name}` must hold one label per row, got the file {str(labels)!r}. Read it, for example "
            f"`pd.{reader.format(repr(str(labels)))}['label'].tolist()`, in the order of the rows"
        )
    for kind in LABELS:
        if kind.matches(labels):
            raise TypeError(f"`{name}` must hold one label per row, {kind.wrong}. {kind.write.replace('groups', name)}")
    if isinstance(labels, str | bytes):
        raise TypeError(
            f"`{name}` must hold one label per row, got the text {labels!r}. Give `frame[{labels!r}].tolist()` for a column of "
            f"a data frame; names of columns go to `{HF_SAMPLER}(dataset, group=...)`"
        )
    masked = hasattr(labels, "filled") and hasattr(labels, "mask") and labels.ndim == 1
    if masked and (hidden := int(labels.mask.sum())):
        raise ValueError(
            f"`{name}` is a masked array that hides {hidden} labels. Give "
            f"`GroupSampler(rows[~{name}.mask], {name}[~{name}.mask].data)` to leave these rows out"
        )


def refuse_mismatch(rows: Any, groups: Any) -> None:
    """Refuse swapped arguments, a folder's class names as labels, and labels of a whole data set for a subset.

    Raises:
        TypeError, ValueError: with the problem and the line to write.
    """
    count = None if _is_sparse(groups) or not hasattr(groups, "__len__") else len(groups)
    if count == len(rows) and _are_labels(rows) and _are_rows(groups):
        raise TypeError("`rows` and `groups` are swapped: labels came first. Give `GroupSampler(groups, rows)`, rows first")
    whole = getattr(rows, "dataset", None) if isinstance(rows, Subset) else None
    classes: Any = getattr(rows if whole is None else whole, "classes", None)
    listed = isinstance(classes, list | tuple) and isinstance(groups, list | tuple)
    if listed and list(groups) == list(classes) and len(groups) != len(rows):
        targets = "rows.targets" if whole is None else "[rows.dataset.targets[row] for row in rows.indices]"
        raise ValueError(
            f"`groups` holds the {len(groups)} names of the classes, not one label per row. Give "
            f"`[rows.{'classes' if whole is None else 'dataset.classes'}[target] for target in {targets}]`"
        )
    if whole is not None and count == len(whole) != len(rows):
        raise ValueError(
            f"`groups` holds the {count} labels of the whole data set, and `rows` is a subset of {len(rows)} rows. "
            "Give `[groups[row] for row in rows.indices]`"
        )


def tensors_left_out(rows: Any, *labels: list[Hashable]) -> int:
    """Count the tensors of a ``TensorDataset`` after the first that equal none of these labels."""
    tensors = getattr(rows, "tensors", ())
    others = [tensor for tensor in tensors[1:] if isinstance(tensor, Tensor)] if isinstance(tensors, tuple) else []
    return sum(tensor.ndim != 1 or tensor.tolist() not in labels for tensor in others)


def _is_a(rows: Any, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(rows).__mro__)


def _is_sparse(rows: Any) -> bool:
    return hasattr(rows, "toarray") and hasattr(rows, "nnz")


def _first(rows: Any, count: int) -> list[Any]:
    """Return the first rows of a list, an array or a column; none for a data set, which may read files."""
    in_memory = isinstance(rows, list | tuple) or hasattr(rows, "tolist") or hasattr(rows, "tensors")
    return [getattr(rows, "iloc", rows)[row] for row in range(min(count, len(rows)))] if in_memory else []


def _is_path(row: Any) -> bool:
    return isinstance(row, PurePath) or (isinstance(row, str) and PurePath(row).suffix.lower() in PICTURES)


def _are_labels(rows: Any) -> bool:
    """Whether all values are texts or whole numbers, and most of them repeat."""
    if not (isinstance(rows, list | tuple) or getattr(rows, "ndim", None) == 1):
        return False
    values = rows.tolist() if hasattr(rows, "tolist") else rows
    return all(isinstance(value, str | int) for value in values) and len(set(values)) <= len(values) / 2


def _are_rows(labels: Any) -> bool:
    """Whether the values are arrays, pictures, or texts with few repetitions."""
    if hasattr(labels, "ndim") and labels.ndim != 1:
        return labels.ndim > 2 or "float" in str(getattr(labels, "dtype", ""))
    first: Any = next(iter(_first(labels, 1)), None)
    if isinstance(first, str):
        values = labels.tolist() if hasattr(labels, "tolist") else list(labels)
        return len(set(values)) > 0.9 * len(values)
    first = first[0] if hasattr(labels, "tensors") else first
    return getattr(first, "ndim", 0) > 0 or hasattr(first, "convert")
