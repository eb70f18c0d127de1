"""A bar with the time that is left, in a terminal or notebook."""

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

Entry = TypeVar("Entry")


def watched(entries: Sequence[Entry], what: str) -> Iterable[Entry]:
    """The entries, with a bar while there are many of them; without `rich`, or where nobody looks, none."""
    if len(entries) < 2 or not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return entries
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return entries
    return track(entries, what, transient=True, console=Console(stderr=True))
