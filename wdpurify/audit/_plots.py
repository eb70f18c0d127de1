"""The audit's plot: transfer effects and leakage, each with its interval."""

from typing import Any

from ._optional import optional
from ._text import in_plots
from ._verdict import ColumnAudit

#: Colours that a colour-blind eye tells apart (Okabe and Ito 2008); the verdict stands beside them in words.
_COLOURS = {"use": "#0072b2", "use, with balance": "#56b4e9", "doubtful": "#e69f00", "do not use": "#d55e00"}


def audit_figure(entries: tuple[ColumnAudit, ...]) -> Any:
    """Return a matplotlib ``Figure`` of the audited columns."""
    figure_class = optional("matplotlib.figure", "the plot").Figure
    judged = [entry for entry in entries if entry.transfer is not None]
    figure = figure_class(figsize=(9, 0.5 * max(1, len(judged)) + 1.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for place, entry in enumerate(judged):
        colour = _COLOURS[entry.verdict]
        transfer = entry.transfer
        leak = entry.leakage
        assert transfer is not None
        assert leak is not None
        _whisker(axes[0], place, transfer.effect, transfer.low, transfer.high, colour)
        _whisker(axes[1], place, leak.balanced_accuracy, leak.low, leak.high, colour)
        axes[1].plot([100 * leak.baseline], [place], marker="|", markersize=14, color="grey")
    axes[0].axvline(0, color="grey", linewidth=0.8)
    axes[0].set_yticks(range(len(judged)), [f"{in_plots(entry.column.name)}\n{entry.verdict}" for entry in judged])
    axes[0].invert_yaxis()
    axes[0].set(xlabel="transfer effect on the task, points", title="negative or null: irrelevant")
    axes[1].set(xlabel="balanced accuracy of the label, %", title="leakage (grey: permuted labels)", xlim=(0, 103))
    return figure


def _whisker(axes: Any, place: int, value: float, low: float, high: float, colour: str) -> None:
    axes.plot([100 * low, 100 * high], [place, place], color=colour)
    axes.plot([100 * value], [place], marker="o", color=colour)
