"""A progress bar with the remaining time, in a terminal or notebook."""

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

Entry = TypeVar("Entry")


def watched(entries: Sequence[Entry], what: str) -> Iterable[Entry]:
    """Yield the entries, with a progress bar if there are many; no bar without `rich` or outside a terminal."""
    if len(entries) < 2 or not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return entries
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return entries
    return track(entries, what, transient=True, console=Console(stderr=True))
