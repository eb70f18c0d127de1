"""What files of strangers must not do: lead out of their folder, or fill the memory."""

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
    """Refuse links other than those to files of the folder.

    Raises:
        ValueError: naming the link.
    """
    for here, folders, files in os.walk(folder):
        for path in (Path(here, name) for name in (*folders, *files)):
            if path.is_symlink() and not (path.is_file() and _inside(str(path), folder)):
                raise ValueError(
                    f"{folder} must have no links but those to its own files, got {path}. Put a copy of its target in its place"
                )


def check_paths(dataset: Any, *folders: Path) -> None:
    """Refuse rows whose picture or sound lies elsewhere, such as on a server.

    Args:
        dataset: of Hugging Face.
        folders: where files may lie.

    Raises:
        ValueError: naming the file.
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
    real = Path(os.path.realpath(path))
    return "://" not in path and real.is_relative_to(os.path.realpath(folder))


@contextmanager
def no_bombs() -> Iterator[None]:
    """Make an error of Pillow's warning that a small file holds a very large picture, before memory is taken for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Image size .* could be decompression bomb")
        yield


def check_archive(file: Path) -> None:
    """Refuse a file of torch whose parts are packed, as torch never packs them: a few kilobytes may hold gigabytes.

    Raises:
        ValueError: naming the part.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            packed = next((part.filename for part in archive.infolist() if part.compress_type != zipfile.ZIP_STORED), None)
        if packed is not None:
            raise ValueError(f"{shown(packed)} is compressed")
