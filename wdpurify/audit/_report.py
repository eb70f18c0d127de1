"""The audit's report, to print, write and plot."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ._optional import optional
from ._page import page
from ._plots import audit_figure
from ._table import table
from ._text import in_markdown, shown
from ._verdict import MEANINGS, ColumnAudit

_HEADS = (
    "label",
    "verdict",
    "transfer effect, points",
    "label alone, points",
    "leakage, %",
    "permuted, %",
    "learned, %",
    "Cramér's V",
    "rows per value",
    "reason",
)


@dataclass(frozen=True)
class Audit:
    """All columns, the best to purify of first.

    Attributes:
        columns: one entry per column: by verdict, then the most negative transfer effect first.
        evaluation: which rows judged the transfer, and what follows for its reading.
        settings: what the numbers depend on.
        versions: of the libraries that made them.
    """

    columns: tuple[ColumnAudit, ...]
    evaluation: str
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{shown(entry.column.name)}: {entry.verdict}. {shown(_sentence(entry.reason))}" for entry in self.columns]
        notes = [f"  note on {shown(name)}: {shown(note)}" for name, note in self.notes()]
        return "\n".join([*lines, *notes, self.evaluation])

    def __getitem__(self, name: str) -> ColumnAudit:
        """The entry of a column.

        Raises:
            KeyError: if there is none of that name.
        """
        for entry in self.columns:
            if entry.column.name == name:
                return entry
        raise KeyError(name)

    def notes(self) -> list[tuple[str, str]]:
        """Warnings, as pairs of column and text."""
        found = [(entry.column.name, note) for entry in self.columns for note in entry.column.warnings]
        for entry in self.columns:
            known = entry.association is not None and entry.association.known
            if known and entry.association.determined:  # type: ignore[union-attr]
                note = "a function of the task label in the task rows, where it is known: each class has one value of it"
                found.append((entry.column.name, note))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    def json(self) -> str:
        """Return everything as JSON, with null for NaN."""
        return json.dumps(_finite(self.as_dict()), indent=1, ensure_ascii=False)

    def markdown(self) -> str:
        """Return the table, the notes and the evaluation as Markdown."""
        rows = [_HEADS, ("---",) * len(_HEADS), *(tuple(map(in_markdown, _row(entry))) for entry in self.columns)]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
        notes = [f"- {in_markdown(name)}: {in_markdown(note)}" for name, note in self.notes()]
        return "\n\n".join(filter(None, [table, "\n".join(notes), self.evaluation])) + "\n"

    def html(self, command: str = "") -> str:
        """A page with table, plot, meanings and settings, which needs no network and runs no script.

        Args:
            command: that made it, to be shown with the settings.
        """
        margin = 100 * float(self.settings.get("margin", 0.05))
        return page(
            _HEADS,
            [_row(entry) for entry in self.columns],
            notes=self.notes(),
            evaluation=self.evaluation,
            meanings={verdict: meaning.format(margin=f"{margin:g}") for verdict, meaning in MEANINGS.items()},
            settings=self.settings,
            versions=self.versions,
            figure=audit_figure(self.columns),
            command=command,
        )

    def print(self, console: Any = None) -> None:
        """Print the table, to the given rich ``Console`` if any."""
        text = optional("rich.text", "the table in the terminal").Text
        console = console or optional("rich.console", "the table in the terminal").Console()
        console.print(table(self.columns))
        for entry in self.columns:
            console.print(text(f"{shown(entry.column.name)}: {shown(entry.reason)}"))
        for name, note in self.notes():
            console.print(text(f"{shown(name)}: {shown(note)}"))
        console.print(text(self.evaluation))

    def plot(self, path: Path | str) -> None:
        """Draw transfer effects and leakage with their intervals into a file."""
        audit_figure(self.columns).savefig(path, dpi=120)


def ranked(entries: list[ColumnAudit], rank: Callable[[ColumnAudit], int]) -> tuple[ColumnAudit, ...]:
    """Sort columns by verdict, then by transfer effect; columns without an audit come last."""
    return tuple(sorted(entries, key=lambda entry: (rank(entry), entry.transfer.effect if entry.transfer else math.inf)))


def _row(entry: ColumnAudit) -> tuple[str, ...]:
    transfer = entry.transfer
    leak = entry.leakage
    counts = entry.column.counts
    sizes = ", ".join(f"{value} {count}" for value, count in list(counts.items())[:8]) + (" ..." if len(counts) > 8 else "")
    numbers = ("-",) * 6
    if transfer is not None and leak is not None and entry.association is not None:
        numbers = (
            f"{100 * transfer.effect:+.1f} ({100 * transfer.low:+.1f} to {100 * transfer.high:+.1f})",
            "-" if transfer.carried is None else f"{100 * transfer.carried:+.1f}",
            f"{100 * leak.balanced_accuracy:.1f}, p = {leak.p_value:.3f}",
            f"{100 * leak.baseline:.1f}",
            f"{100 * transfer.label_accuracy:.1f}",
            f"{entry.association.cramers_v:.2f}" + ("" if entry.association.known else " predicted"),
        )
    return (entry.column.name, entry.verdict, *numbers, sizes, entry.reason)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
