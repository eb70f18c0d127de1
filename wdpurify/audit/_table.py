"""The audit's table in a terminal: two lines a row, so that it fits in 80 columns."""

from typing import Any

from ._optional import optional
from ._text import shown
from ._verdict import ColumnAudit

#: Headings, and the room that each column takes at least: headings and numbers are never cut. Long labels are folded.
_HEADS = {
    "label": 8,
    "verdict": len("do not use"),
    "transfer\neffect": len("-10.0 to"),
    "label\nalone": len("alone"),
    "leakage\n(permuted)": len("(permuted)"),
    "learned": len("learned"),
    "Cramér's\nV": len("predicted"),
}
_NONE = ("-",) * (len(_HEADS) - 2)


def table(entries: tuple[ColumnAudit, ...]) -> Any:
    """Return a rich ``Table`` of all columns, with effects in points and accuracies in percent."""
    rich = optional("rich.table", "the table in the terminal")
    box = optional("rich.box", "the table in the terminal").HORIZONTALS
    text = optional("rich.text", "the table in the terminal").Text
    title = "Labels to purify of, the best first (points and %)"
    found = rich.Table(title=title, box=box, show_lines=True, pad_edge=False, collapse_padding=True)
    for head, room in _HEADS.items():
        found.add_column(head, overflow="fold", min_width=room)
    for entry in entries:
        cells = (shown(entry.column.name, 60), entry.verdict.replace(", ", ",\n"), *_numbers(entry))
        found.add_row(*map(text, cells))
    return found


def _numbers(entry: ColumnAudit) -> tuple[str, ...]:
    transfer = entry.transfer
    leak = entry.leakage
    if transfer is None or leak is None or entry.association is None:
        return _NONE
    return (
        f"{100 * transfer.effect:+.1f}\n{100 * transfer.low:+.1f} to {100 * transfer.high:+.1f}",
        "-" if transfer.carried is None else f"{100 * transfer.carried:+.1f}",
        f"{100 * leak.balanced_accuracy:.1f} ({100 * leak.baseline:.1f})\np = {leak.p_value:.3f}",
        f"{100 * transfer.label_accuracy:.1f}",
        f"{entry.association.cramers_v:.2f}" + ("" if entry.association.known else "\npredicted"),
    )
