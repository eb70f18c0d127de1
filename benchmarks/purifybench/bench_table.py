"""One table over benches: per method and bench the share of the gap recovered, the accuracy and the seconds per step."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .methods import FITTED_ON
from .report import BASELINE, UPPER_BOUND, Estimate, clear, estimate, share
from .results import Record

#: By method and bench.
Figures = Mapping[str, Mapping[str, Estimate]]


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row per run: bench, method, seed, accuracy on unbiased rows in percent, milliseconds per step.

    Unbiased are the test's rows, or those of validation for runs that do not read it.
    """
    rows = []
    for record in records:
        key = record["key"]
        run = {"bench": key["task"], "method": key["row"], "seed": key["settings"]["seed"]}
        accuracy = record["accuracy"]
        unbiased = accuracy["unbiased"] if "unbiased" in accuracy else accuracy["oracle"]
        rows.append(run | {"unbiased": unbiased, "milliseconds": 1e3 * record["seconds_per_step"]})
    return pd.DataFrame(rows)


def recovered(found: pd.DataFrame) -> Figures:
    """The share of the gap between plain training and upper bound in percent, paired by seed.

    A bench whose gap is not clearly above zero is left out, as no unit to measure in.
    """
    table: dict[str, dict[str, Estimate]] = {}
    for bench, runs in found.groupby("bench", sort=False):
        wide = runs.pivot_table(index="seed", columns="method", values="unbiased", sort=False)
        if not {BASELINE, UPPER_BOUND} <= set(wide):
            continue
        gaps = wide.pop(UPPER_BOUND) - wide[BASELINE]
        gains = wide.sub(wide.pop(BASELINE), axis=0)
        for method in gains if clear(gaps.dropna()) else ():
            both = pd.DataFrame({"gain": gains[method], "gap": gaps}).dropna()
            if len(both):
                table.setdefault(method, {})[bench] = share(both["gain"], both["gap"])
    return table


def estimates(found: pd.DataFrame, column: str) -> Figures:
    """Mean and interval of a column; methods that take no step have no time per step."""
    table: dict[str, dict[str, Estimate]] = {}
    for (method, bench), values in found.groupby(["method", "bench"], sort=False)[column]:
        if column != "milliseconds" or method not in FITTED_ON:
            table.setdefault(method, {})[bench] = estimate(values)
    return table


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
