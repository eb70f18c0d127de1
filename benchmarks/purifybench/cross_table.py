"""The paper's table shape: a row per pair of training and test set, a column per method, and what to make of the columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table
from scipy import stats

from .report import BASELINE, Estimate, estimate
from .results import Record

#: Test sets of a record that are no other data set.
OWN = ("validation", "oracle", "within", "unbiased")


@dataclass(frozen=True)
class CrossTable:
    """Accuracies in percent.

    Attributes:
        cells: by pair ``"train → test"`` and method.
        average: by method, over the pairs.
        verdicts: by method, beside plain training: pairs won, tied and lost by mean, and the p value of a paired t test over
            the seeds' averages (NaN for fewer than two seeds, or equal gains in all).
    """

    cells: dict[str, dict[str, Estimate]]
    average: dict[str, Estimate]
    verdicts: dict[str, tuple[int, int, int, float]]


def cross_table(records: Sequence[Record], *, tie: float = 0.05) -> CrossTable:
    """Table of all pairs that the records hold.

    Args:
        records: runs that read the test sets; the training set is the task's name.
        tie: difference of means, in points, below which a pair is tied.
    """
    values: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        key = record["key"]
        for test, accuracy in record["accuracy"].items():
            if test not in OWN:
                runs = values.setdefault(f"{key['task']} → {test}", {}).setdefault(key["row"], {})
                runs[key["settings"]["seed"]] = accuracy
    methods = list(dict.fromkeys(method for row in values.values() for method in row))
    cells = {pair: {name: estimate(list(runs.values())) for name, runs in row.items()} for pair, row in values.items()}
    averages = {method: _average_by_seed(values, method) for method in methods}
    verdicts = {
        method: _verdict(cells, averages, method, tie) for method in methods if method != BASELINE and BASELINE in averages
    }
    return CrossTable(cells, {method: estimate(list(runs.values())) for method, runs in averages.items()}, verdicts)


def _average_by_seed(values: Mapping[str, Mapping[str, Mapping[int, float]]], method: str) -> dict[int, float]:
    rows = [row[method] for row in values.values() if method in row]
    seeds = set(rows[0]).intersection(*rows[1:])
    return {seed: float(np.mean([row[seed] for row in rows])) for seed in sorted(seeds)}


def _verdict(
    cells: Mapping[str, Mapping[str, Estimate]], averages: Mapping[str, Mapping[int, float]], method: str, tie: float
) -> tuple[int, int, int, float]:
    gains = [row[method].mean - row[BASELINE].mean for row in cells.values() if method in row and BASELINE in row]
    won = sum(gain > tie for gain in gains)
    lost = sum(gain < -tie for gain in gains)
    seeds = [seed for seed in averages[method] if seed in averages[BASELINE]]
    p_value = float("nan")
    paired = [averages[method][seed] - averages[BASELINE][seed] for seed in seeds]
    if len(seeds) > 1 and np.ptp(paired) > 1e-6:  # gains that are all equal leave nothing to test by
        p_value = float(stats.ttest_1samp(paired, 0.0).pvalue)
    return won, len(gains) - won - lost, lost, p_value


def lines(table: CrossTable, published: Mapping[str, Mapping[str, float]] | None = None) -> list[list[str]]:
    """The table as rows of text, a header first; ``published`` adds the paper's own figures by pair and method."""
    methods = list(table.average)
    theirs = list(dict.fromkeys(name for row in (published or {}).values() for name in row))
    rows = [["train → test", *methods, *(f"paper: {name}" for name in theirs)]]
    for pair, row in table.cells.items():
        given = (published or {}).get(pair, {})
        cells = [str(row[method]) if method in row else "" for method in methods]
        rows.append([pair, *cells, *(f"{given[name]:.1f}" if name in given else "" for name in theirs)])
    rows.append(["average", *map(str, table.average.values()), *("" for _ in theirs)])
    shown = {method: f"{won}/{tied}/{lost}" for method, (won, tied, lost, _) in table.verdicts.items()}
    rows.append(["won/tied/lost", *(shown.get(method, "") for method in methods), *("" for _ in theirs)])
    tested = {method: _shown(p_value) for method, (*_, p_value) in table.verdicts.items()}
    return [*rows, ["p, paired t over seeds", *(tested.get(method, "") for method in methods), *("" for _ in theirs)]]


def _shown(p_value: float) -> str:
    if np.isnan(p_value):
        return ""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a Markdown table."""
    ruler = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [rows[0], ruler, *rows[1:]])


def upright(title: str, rows: Sequence[Sequence[str]]) -> Table:
    """Rows of text as a table for the terminal."""
    table = Table(title=title)
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if number else "left")
    for cells in rows[1:]:
        table.add_row(*cells)
    return table


def turned(title: str, rows: Sequence[Sequence[str]]) -> Table:
    """Rows of text as a table for the terminal, on its side, as methods have long names; pairs lose their intervals."""
    table = Table(title=title)
    names = [cells[0] for cells in rows]
    for number, cells in enumerate(zip(*rows, strict=True)):
        if number == 0:
            for place, cell in enumerate(cells):
                table.add_column(cell.replace(" → ", " →\n"), justify="left" if place == 0 else "right")
        else:
            table.add_row(*(cell.partition(" ±")[0] if "→" in name else cell for name, cell in zip(names, cells, strict=True)))
    return table
