"""Rows of text, a header first, as tables: in Markdown, and for the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

Lines = Sequence[Sequence[str]]


def markdown(lines: Lines) -> str:
    """A Markdown table."""
    ruler = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [lines[0], ruler, *lines[1:]])


def upright(title: str, lines: Lines, *, caption: str | None = None, bold: str = "") -> Table:
    """A table for the terminal; the row whose first cell is ``bold`` stands out."""
    table = Table(title=title, caption=caption)
    for number, name in enumerate(lines[0]):
        table.add_column(name, justify="right" if number else "left", no_wrap=not number)
    for cells in lines[1:]:
        table.add_row(*cells, style="bold" if cells[0] == bold else None)
    return table


def turned(title: str, lines: Lines) -> Table:
    """The same on its side, for methods with long names in the header; pairs of sets lose their intervals."""
    names, *columns = zip(*lines, strict=True)
    header = [name.replace(" → ", " →\n") for name in names]
    cells = [
        [cell.partition(" ±")[0] if "→" in name else cell for name, cell in zip(names, column, strict=True)]
        for column in columns
    ]
    return upright(title, [header, *cells])


def console(width: int = 160) -> Console:
    """The terminal, at least so wide: narrower than that, wide tables would be unreadable."""
    return Console(width=max(Console().width, width))


def show(title: str, lines: Lines, path: Path, *, width: int = 160) -> None:
    """Print a table and keep it as Markdown."""
    console(width).print(upright(title, lines))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{markdown(lines)}\n", encoding="utf-8")
