"""One table over benches: per method and bench the share of the gap recovered, the accuracy and the seconds per step."""

from collections.abc import Mapping, Sequence

import numpy as np

from .methods import FITTED_ON
from .report import Estimate, estimate, summarise
from .results import Record, grouped

#: By method and bench.
Figures = Mapping[str, Mapping[str, Estimate]]


def figures(records: Sequence[Record]) -> dict[str, Figures]:
    """The tables by title, of runs on several benches.

    A bench whose gap is not clearly above zero has no shares. Unbiased are the test's rows, or those of validation for runs
    that do not read it. Methods that take no step have no time per step.
    """
    recovered: dict[str, dict[str, Estimate]] = {}
    accuracy: dict[str, dict[str, Estimate]] = {}
    milliseconds: dict[str, dict[str, Estimate]] = {}
    for bench, of_bench in grouped(records, "task").items():
        for row in summarise(of_bench):
            accuracy.setdefault(row.method, {})[bench] = list(row.accuracy.values())[-1]
            if row.recovered is not None:
                recovered.setdefault(row.method, {})[bench] = row.recovered
        for method, runs in grouped(of_bench, "row").items():
            if method not in FITTED_ON:
                taken = [1e3 * run["seconds_per_step"] for run in runs]
                milliseconds.setdefault(method, {})[bench] = estimate(taken)
    titles = ("gap recovered %", "accuracy on unbiased rows %", "milliseconds per step")
    return dict(zip(titles, (recovered, accuracy, milliseconds), strict=True))


def ordered(records: Sequence[Record], methods: Sequence[str]) -> list[str]:
    """The rows that the records have, in the order of the methods; one chosen by the oracle follows its own."""
    rows = dict.fromkeys((record["key"]["method"], record["key"]["row"]) for record in records)
    return [row for method in methods for of, row in rows if of == method]


def lines(table: Figures, rows: Sequence[str], benches: Sequence[str], *, mean: bool) -> list[list[str]]:
    """A table as rows of text, a header first.

    Args:
        table: the figures.
        rows: methods, in their order; those without a figure are left out.
        benches: columns.
        mean: add the mean over benches, with their number where a method has not all that are measured.
    """
    measured = [bench for bench in benches if any(bench in figures for figures in table.values())]
    text = [["method", *measured, *(["mean"] if mean else [])]]
    for row in rows:
        if figures := table.get(row):
            cells = [str(figures.get(bench, "-")) for bench in measured]
            text.append([row, *cells, *([_mean(figures, len(measured))] if mean else [])])
    return text


def _mean(figures: Mapping[str, Estimate], benches: int) -> str:
    average = f"{np.mean([figure.mean for figure in figures.values()]):.1f}"
    return average if len(figures) == benches else f"{average} (of {len(figures)})"
