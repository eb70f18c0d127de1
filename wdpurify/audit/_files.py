"""Writes files completely or not at all, in a folder that was tried before the work starts."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_folder(folder: Path, option: str = "--out") -> None:
    """Make a folder and try to write to it.

    Args:
        folder: where files are to be written.
        option: name of the option, for the message.

    Raises:
        ValueError: if it is a file, or cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} needs a folder to write to, got {folder} ({error.strerror}). Give another folder"
        ) from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to, and rename that file to ``path`` at the end; an error leaves ``path`` as it was.

    Raises:
        ValueError: if the file cannot be written, such as on a full disk.
    """
    unfinished = path.with_name(f"{path.stem}.unfinished{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}). Make room, or give another folder") from error
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write text as UTF-8, completely or not at all; lone surrogates become escape sequences."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
