"""Shared by the commands: options of a backbone, and errors in one line."""

import ast
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ._text import shown


def text(argument: str) -> str:
    """An argument that names no file, read as UTF-8 also in a locale without it."""
    return os.fsencode(argument).decode("utf-8", errors="surrogateescape")


def pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """``name=value`` as written on the command line.

    Args:
        option: its name, for the message.
        given: as written.

    Raises:
        ValueError: for anything else, or a name that comes twice.
    """
    found: dict[str, str] = {}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not (name and equals):
            raise ValueError(f"{option} takes name=value, got {entry!r}")
        if name in found:
            raise ValueError(f"{option} names {name!r} twice")
        found[name] = value
    return found


def options(given: Sequence[str]) -> dict[str, Any]:
    """Parse options of a backbone: Python literals, and other values as text."""
    found: dict[str, Any] = {}
    for name, value in pairs("--backbone-options", given).items():
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def print_anything() -> None:
    """Let the terminal show characters outside its encoding as escape sequences."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def refusals(command: str) -> Iterator[None]:
    """End the command with one line if its data or options are refused."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise SystemExit(f"{command}: {shown(str(error), 1000)}") from error
