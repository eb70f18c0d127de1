"""The paper's table shape: a row per pair of training and test set, a column per method, and what to make of the columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from .report import BASELINE, Estimate, estimate
from .results import Record, accuracies

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
    found = accuracies(records)
    found = found[~found["test"].isin(OWN)]
    found["pair"] = found["task"] + " → " + found["test"]
    runs = found.groupby(["pair", "row", "seed"], sort=False)["accuracy"].last()
    cells: dict[str, dict[str, Estimate]] = {}
    for (pair, method), values in runs.groupby(level=["pair", "row"], sort=False):
        cells.setdefault(pair, {})[method] = estimate(values)
    methods = list(dict.fromkeys(found["row"]))
    averages = {name: runs.xs(name, level="row").unstack("pair").dropna().mean(axis=1) for name in methods}
    verdicts = {name: _verdict(cells, averages, name, tie) for name in methods if name != BASELINE and BASELINE in averages}
    return CrossTable(cells, {name: estimate(values) for name, values in averages.items()}, verdicts)


def _verdict(
    cells: Mapping[str, Mapping[str, Estimate]], averages: Mapping[str, pd.Series], method: str, tie: float
) -> tuple[int, int, int, float]:
    gains = [row[method].mean - row[BASELINE].mean for row in cells.values() if method in row and BASELINE in row]
    won = sum(gain > tie for gain in gains)
    lost = sum(gain < -tie for gain in gains)
    paired = (averages[method] - averages[BASELINE]).dropna()
    p_value = float("nan")
    if len(paired) > 1 and np.ptp(paired) > 1e-6:  # gains that are all equal leave nothing to test by
        p_value = float(stats.ttest_1samp(paired, 0.0).pvalue)
    return won, len(gains) - won - lost, lost, p_value


def lines(table: CrossTable, published: Mapping[str, Mapping[str, float]] | None = None) -> list[list[str]]:
    """The table as rows of text, a header first; ``published`` adds the paper's own figures by pair and method."""
    methods = list(table.average)
    theirs = list(dict.fromkeys(name for row in (published or {}).values() for name in row))

    def line(name: str, cells: Mapping[str, object], given: Mapping[str, float]) -> list[str]:
        ours = [str(cells.get(method, "")) for method in methods]
        return [name, *ours, *(f"{given[each]:.1f}" if each in given else "" for each in theirs)]

    return [
        ["train → test", *methods, *(f"paper: {name}" for name in theirs)],
        *(line(pair, row, (published or {}).get(pair, {})) for pair, row in table.cells.items()),
        line("average", table.average, {}),
        line("won/tied/lost", {name: "{}/{}/{}".format(*counts) for name, (*counts, _) in table.verdicts.items()}, {}),
        line("p, paired t over seeds", {name: _shown(p_value) for name, (*_, p_value) in table.verdicts.items()}, {}),
    ]


def _shown(p_value: float) -> str:
    if np.isnan(p_value):
        return ""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
