"""Opens rows: tensors, data sets in memory, and sources of `datasets.load_dataset`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wdpurify._labels import labels_of_rows
from wdpurify._rows import Collator, by_position

from ._hub import check_hub
from ._inputs import Inputs
from ._leakage import drawn
from ._optional import optional
from ._strangers import check_links, check_paths, no_bombs
from ._text import shown


@dataclass(frozen=True)
class Table:
    """Rows in the model's form, and columns with one cell per row."""

    inputs: Inputs
    columns: Mapping[str, list[Any]]


@no_bombs()
def read_table(
    name: str,
    source: Any,
    wanted: Sequence[str],
    *,
    optional_columns: Sequence[str] = (),
    image: str = "image",
    image_size: int | None = None,
    transform: Callable[[Any], Any] | None = None,
    collate_fn: Collator | None = None,
    max_rows: int = 2000,
    seed: int = 0,
) -> Table:
    """Read some rows of a source.

    Args:
        name: of the argument, for messages.
        source: ``(images, columns)`` with a mapping or a data frame of columns, ``(images, labels)`` where one column is
            wanted, a Hugging Face ``Dataset``, a map-style data set whose rows are mappings, or a data frame. Pandas rows are
            read by position, never by their index.
        wanted: columns that must be there.
        optional_columns: columns taken where they are.
        image: name of the column that the model reads.
        image_size: images are resized to this; None leaves them.
        transform: prepares an item; None turns pictures and bytes to [0, 1].
        collate_fn: makes a batch of the list of items, which then come as they are.
        max_rows: of more rows, so many are drawn by ``seed``.

    Raises:
        ValueError: if a column is missing, lengths or image shapes differ, or there is no row.
        TypeError: for other sources, or cells that are no images.
    """
    if _is_frame(source):
        _check_columns(name, (image,), list(source.columns))
        source = source[image], source
    if isinstance(source, tuple) and len(source) == 2:
        images, given = source
        columns = _columns_of(given, wanted)
        count = len(images)
        if odd := {key: len(cells) for key, cells in columns.items() if len(cells) != count}:
            raise ValueError(f"`{name}` must have as many labels as its {count} images, got {odd}")
        _check_columns(name, wanted, list(columns))
        rows = drawn(torch.arange(count), max_rows, seed).tolist()
        read = {key: [columns[key][row] for row in rows] for key in (*wanted, *optional_columns) if key in columns}
        fetch = by_position(images).__getitem__
    elif hasattr(source, "column_names") and hasattr(source, "select"):
        _check_columns(name, (image, *wanted), list(source.column_names))
        rows = drawn(torch.arange(len(source)), max_rows, seed).tolist()
        chosen = source.select(rows)
        names = [key for key in (*wanted, *optional_columns) if key in source.column_names]
        read = {key: _cells(chosen, key) for key in names}
        pictures = source.select_columns(image)
        fetch = lambda row: pictures[row][image]  # noqa: E731
    elif hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, (str, dict, list, tuple)):
        rows = drawn(torch.arange(len(source)), max_rows, seed).tolist()
        found = [_read(name, source.__getitem__, row) for row in rows]
        if found and not isinstance(found[0], Mapping):
            raise TypeError(f"`{name}` must have rows that are mappings, got a {type(found[0]).__name__}; or (images, columns)")
        _check_columns(name, (image, *wanted), list(found[0]) if found else [image, *wanted])
        read = {key: [row[key] for row in found] for key in (*wanted, *optional_columns) if found and key in found[0]}
        fetch = dict(zip(rows, (row[image] for row in found), strict=True)).__getitem__
    else:
        raise TypeError(f"`{name}` must be (images, columns) or a map-style data set, got {type(source).__name__}")
    if not rows:
        raise ValueError(f"`{name}` must have rows, got none")
    prepare = transform if collate_fn else lambda cell: _prepared(name, cell, image_size, transform)
    items = [_read(name, lambda row: prepare(fetch(row)) if prepare else fetch(row), row, source, image) for row in rows]
    tensors = collate_fn is None and all(isinstance(item, Tensor) for item in items)
    return Table(Inputs(_stacked(name, items, rows) if tensors else items, collate_fn=collate_fn), read)


def open_source(source: str, split: str) -> Any:
    """A split of a hub data set or of local files.

    Args:
        source: ``id`` or ``id:config`` on the hub, a folder (of ``save_to_disk``, or of images, parquet or csv files), or a
            parquet or csv file; ``#name`` behind it names the split. Local files may name files of their own folder alone.
        split: taken if the source names none; a source with a single split gives that one.

    Raises:
        ValueError: if there is no such split, naming those that there are; if the source cannot be opened, or leads elsewhere.
    """
    datasets = optional("datasets", "opening a data set by name")
    where, _, named = source.partition("#")
    path = Path(where)
    kinds = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
    if path.suffix in kinds and not path.exists():
        raise ValueError(f"{where}: there is no such file")
    try:
        if path.is_file():
            kind = kinds.get(path.suffix)
            if kind is None:
                raise ValueError(f"{where} must be a .parquet, .csv, .json or .jsonl file")
            found = datasets.load_dataset(kind, data_files=where)
        elif path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
            check_links(path)
            found = datasets.load_from_disk(where)
        elif path.exists():
            check_links(path)
            found = datasets.load_dataset(where)
        else:
            identifier, _, config = where.partition(":")
            _check_hub(datasets, identifier)
            found = datasets.load_dataset(identifier, config or None)
    except (OSError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ValueError(f"{where} is no local data set and cannot be had from the hub: {error}") from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"{where} cannot be read: {error.__cause__ or error}") from error
    if path.exists():
        unpacked = Path(datasets.config.HF_DATASETS_CACHE), Path(datasets.config.EXTRACTED_DATASETS_PATH)
        for part in found.values() if isinstance(found, Mapping) else (found,):
            check_paths(part, path if path.is_dir() else path.parent, *unpacked)
    if not isinstance(found, Mapping):
        return found
    if not named and len(found) == 1:
        return next(iter(found.values()))
    if (named or split) not in found:
        raise ValueError(
            f"{where} has no split {named or split!r}; it has {', '.join(found)}: write {where}#{next(iter(found))}"
        )
    return found[named or split]


def _check_hub(datasets: Any, identifier: str) -> None:
    """Raise an error at once if a data set is only on the hub and the hub cannot be reached."""
    owner, slash, name = identifier.rpartition("/")
    folder = owner + slash.replace("/", "___") + datasets.naming.camelcase_to_snakecase(name)
    cached = Path(datasets.config.HF_DATASETS_CACHE) / folder
    if identifier.count("/") <= 1 and not cached.exists() and not datasets.config.HF_DATASETS_OFFLINE:
        check_hub(f"{identifier} is no local data set and", "name a local folder or file, or another hub in HF_ENDPOINT")


def _is_frame(value: Any) -> bool:
    """Whether this is a pandas data frame, without an import of pandas."""
    return hasattr(value, "columns") and hasattr(value, "iloc")


def _columns_of(given: Any, wanted: Sequence[str]) -> dict[str, list[Any]]:
    """Return columns by name, each a list in the order of the rows; unnamed labels are the first wanted column."""
    if isinstance(given, Mapping) or _is_frame(given):
        return {str(name): labels_of_rows(given[name], str(name)) for name in (given.columns if _is_frame(given) else given)}
    return {name: labels_of_rows(given, name) for name in wanted[:1]}


def _cells(dataset: Any, name: str) -> list[Any]:
    """Return a column; numbers of a ``ClassLabel`` become its names, and its mark for unknown becomes None."""
    cells = list(dataset[name])
    names = getattr(dataset.features[name], "names", None)
    return cells if names is None else [None if cell is None or cell < 0 else names[cell] for cell in cells]


def _check_columns(name: str, wanted: Sequence[str], known: list[str]) -> None:
    if absent := [column for column in wanted if column not in known]:
        raise ValueError(f"`{name}` has no column {absent[0]!r}; it has {', '.join(map(repr, known))}")


def _prepared(name: str, cell: Any, size: int | None, transform: Callable[[Any], Any] | None) -> Any:
    """Convert an item for a batch: the first member of a tuple, an image as a floating-point tensor."""
    cell = cell[0] if isinstance(cell, tuple) and cell else cell
    if transform is not None:
        cell = transform(cell)
    elif hasattr(cell, "convert"):  # a PIL image, told without importing PIL
        pixels = torch.frombuffer(bytearray(cell.convert("RGB").tobytes()), dtype=torch.uint8)
        cell = pixels.view(cell.height, cell.width, 3).permute(2, 0, 1)
    if type(cell).__module__ == "numpy" and hasattr(cell, "shape"):
        cell = torch.as_tensor(cell)
    if not isinstance(cell, Tensor) or cell.ndim != 3:
        if size is not None:
            came = f"a tensor of shape {tuple(cell.shape)}" if isinstance(cell, Tensor) else type(cell).__name__
            raise TypeError(
                f"`image_size` is for images of shape (channels, height, width), got {came} in `{name}`. Leave it out"
            )
        return cell.cpu() if isinstance(cell, Tensor) else cell
    if cell.dtype == torch.uint8:
        cell = cell / 255
    if not cell.is_floating_point():
        raise TypeError(f"`{name}` must hold floating point or byte images, got {cell.dtype}")
    if size is not None and tuple(cell.shape[1:]) != (size, size):
        cell = F.interpolate(cell[None], (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    return cell.cpu()


def _read(name: str, fetch: Callable[[int], Any], row: int, source: Any = None, image: str = "") -> Any:
    """Call ``fetch`` for a row; the error for an unreadable image (cut short, far too large) has its row and file."""
    try:
        return fetch(row)
    except (TypeError, ValueError, KeyError):
        raise
    except Exception as error:
        where = shown(f"{row}{_file_of(source, row, image)}: {error}").rstrip(".")
        is_large = type(error).__name__.startswith("DecompressionBomb")
        remedy = "set `PIL.Image.MAX_IMAGE_PIXELS = None` if you trust it" if is_large else "mend its file"
        raise ValueError(f"`{name}` cannot be read in row {where}. Leave the row out, or {remedy}") from error


def _file_of(source: Any, row: int, image: str) -> str:
    """Return the file of a row's image, if its data set knows it."""
    features = getattr(source, "features", None)
    if not isinstance(features, Mapping) or not hasattr(features.get(image), "decode"):
        return ""
    undecoded = source.select_columns(image).cast_column(image, type(features[image])(decode=False))
    path = (undecoded[row][image] or {}).get("path")
    return f" ({path})" if path else ""


def _stacked(name: str, images: list[Tensor], rows: Sequence[int]) -> Tensor:
    shapes = [tuple(image.shape) for image in images]
    other = next((place for place, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is not None:
        found = f"{shapes[0]} in row {rows[0]} and {shapes[other]} in row {rows[other]}"
        raise ValueError(
            f"`{name}` must have rows of one shape, got {found}. Set `image_size`, or give a `collate_fn` that pads them"
        )
    return torch.stack(images)
