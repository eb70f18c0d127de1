"""Refuses files of strangers that lead out of their folder or would fill the memory."""

import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._optional import optional
from ._text import shown

#: Kinds of archives whose members a table may name.
ARCHIVES = ("zip", "tar", "gzip", "bz2", "xz", "lz4", "zstd")


def check_links(folder: Path) -> None:
    """Refuse links that leave the folder, hidden ones apart. A snapshot of the Hugging Face cache links to its ``blobs``.

    Raises:
        ValueError: with the link.
    """
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]  # `datasets` reads nothing hidden
        for path in (Path(here, name) for name in (*folders, *files) if not name.startswith(".")):
            if path.is_symlink() and not (path.is_file() and _inside(str(path), folder)):
                raise ValueError(
                    f"{folder} must have no links but those to its own files, got {path}. Put a copy of its target in its place"
                )


def check_paths(dataset: Any, *folders: Path) -> None:
    """Refuse rows whose picture or sound is in another place, such as on a server; also in lists and structures.

    Args:
        dataset: a Hugging Face data set.
        folders: folders that may hold the files.

    Raises:
        ValueError: with the file.
    """
    for name in dataset.column_names:
        for path in _paths(dataset.data.column(name)):
            *members, file = path.split("::")
            packed = all(member.partition("://")[0] in ARCHIVES for member in members)
            if not (packed and any(_inside(file, folder) for folder in folders)):
                raise ValueError(
                    f"column {name!r} must name files in {folders[0]}, got {path}. Leave the row out, or move the file there"
                )


def _paths(cells: Any) -> Iterator[str]:
    """Yield the files that are read for cells of Arrow: where there is a path and no bytes."""
    types, compute = (optional(f"pyarrow.{part}", "opening a data set by name") for part in ("types", "compute"))
    if types.is_struct(cells.type):
        parts = {field.name: compute.struct_field(cells, field.name) for field in cells.type}
        if parts.keys() == {"bytes", "path"}:
            named = compute.filter(parts["path"], compute.is_null(parts["bytes"])).to_pylist()
            yield from (path for path in named if path is not None)
        else:
            for part in parts.values():
                yield from _paths(part)
    elif types.is_list(cells.type) or types.is_large_list(cells.type) or types.is_fixed_size_list(cells.type):
        yield from _paths(compute.list_flatten(cells))


def _inside(path: str, folder: Path) -> bool:
    whole = folder.resolve()
    places = [whole]
    for place in (whole, *whole.parents):
        if place.parent.name == "snapshots":
            places.append(place.parents[1] / "blobs")
    return "://" not in path and any(map(Path(os.path.realpath(path)).is_relative_to, places))


@contextmanager
def no_bombs() -> Iterator[None]:
    """Turn Pillow's warning of a very large picture in a small file into an error, before the picture is decoded."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Image size .* could be decompression bomb")
        yield


def check_archive(file: Path) -> None:
    """Refuse a torch file with compressed parts, which torch never writes: a few kilobytes may hold gigabytes.

    Raises:
        ValueError: with the part.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            packed = next((part.filename for part in archive.infolist() if part.compress_type != zipfile.ZIP_STORED), None)
        if packed is not None:
            raise ValueError(f"{shown(packed)} is compressed")
