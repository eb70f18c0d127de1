"""One table over benches: per method and bench the share of the gap recovered, the accuracy and the seconds per step."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .methods import FITTED_METHODS, PLAIN
from .report import UPPER_BOUND, Estimate, estimate, share
from .results import Record

#: What a cell has where a figure has no meaning.
NOTHING = "-"
#: Last column: the mean over benches.
MEAN = "mean"


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


def recovered(found: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """By method and bench the share of the gap between plain training and upper bound in percent, paired by seed.

    A bench whose gap is not clearly above zero is left out, as no unit to measure in.
    """
    table: dict[str, dict[str, Estimate]] = {}
    for bench, runs in found.groupby("bench", sort=False):
        wide = runs.pivot_table(index="seed", columns="method", values="unbiased", sort=False)
        if PLAIN not in wide or UPPER_BOUND not in wide:
            continue
        gaps = wide[UPPER_BOUND] - wide[PLAIN]
        if not gaps.mean() > np.nan_to_num(estimate(list(gaps.dropna())).half_width):
            continue
        for method in wide:
            both = pd.DataFrame({"gain": wide[method] - wide[PLAIN], "gap": gaps}).dropna()
            if len(both) and method not in (PLAIN, UPPER_BOUND):
                table.setdefault(str(method), {})[str(bench)] = share(list(both["gain"]), list(both["gap"]))
    return table


def estimates(found: pd.DataFrame, column: str) -> dict[str, dict[str, Estimate]]:
    """Mean and interval of a column by method and bench; methods that take no step have no time per step."""
    table: dict[str, dict[str, Estimate]] = {}
    stepless = {name for methods in FITTED_METHODS.values() for name in methods}
    for (method, bench), runs in found.groupby(["method", "bench"], sort=False):
        if column != "milliseconds" or method not in stepless:
            table.setdefault(str(method), {})[str(bench)] = estimate(list(runs[column]))
    return table


def ordered(records: Sequence[Record], methods: Sequence[str]) -> list[str]:
    """The rows that the records have, in the order of the methods; one chosen by the oracle follows its own."""
    rows = dict.fromkeys((record["key"]["method"], record["key"]["row"]) for record in records)
    return [row for method in methods for of, row in rows if of == method]


def lines(
    table: Mapping[str, Mapping[str, Estimate]], rows: Sequence[str], benches: Sequence[str], *, mean: bool
) -> list[list[str]]:
    """A table as rows of text, a header first.

    Args:
        table: figures by method and bench.
        rows: methods, in their order; those without a figure are left out.
        benches: columns.
        mean: add the mean over benches, with their number where a method has not all that are measured.
    """
    measured = [bench for bench in benches if any(bench in figures for figures in table.values())]
    text = [["method", *measured, *([MEAN] if mean else [])]]
    for row in rows:
        if figures := table.get(row):
            cells = [str(figures[bench]) if bench in figures else NOTHING for bench in measured]
            text.append([row, *cells, *([_mean(figures, len(measured))] if mean else [])])
    return text


def _mean(figures: Mapping[str, Estimate], benches: int) -> str:
    average = f"{np.mean([figure.mean for figure in figures.values()]):.1f}"
    return average if len(figures) == benches else f"{average} (of {len(figures)})"
