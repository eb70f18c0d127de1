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


def check_links(folder: Path) -> None:
    """Refuse links other than those to files of the folder; a snapshot of the Hugging Face cache links to its ``blobs``.

    Raises:
        ValueError: with the link.
    """
    for here, folders, files in os.walk(folder):
        for path in (Path(here, name) for name in (*folders, *files)):
            if path.is_symlink() and not (path.is_file() and _inside(str(path), folder)):
                raise ValueError(
                    f"{folder} must have no links but those to its own files, got {path}. Put a copy of its target in its place"
                )


def check_paths(dataset: Any, *folders: Path) -> None:
    """Refuse rows whose picture or sound is in another place, such as on a server.

    Args:
        dataset: a Hugging Face data set.
        folders: folders that may hold the files.

    Raises:
        ValueError: with the file.
    """
    compute = optional("pyarrow.compute", "opening a data set by name")
    for name in (name for name, feature in dataset.features.items() if hasattr(feature, "decode")):
        cells = dataset.data.column(name)
        unread = compute.is_null(compute.struct_field(cells, "bytes"))
        for path in compute.filter(compute.struct_field(cells, "path"), unread).to_pylist():
            if path is not None and not any(_inside(path.split("::")[-1], folder) for folder in folders):
                raise ValueError(
                    f"column {name!r} must name files in {folders[0]}, got {path}. Leave the row out, or move the file there"
                )


def _inside(path: str, folder: Path) -> bool:
    whole = folder.resolve()
    whole = whole.parents[1] if whole.parent.name == "snapshots" else whole
    return "://" not in path and Path(os.path.realpath(path)).is_relative_to(whole)


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
