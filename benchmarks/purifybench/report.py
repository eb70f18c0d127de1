"""From records to a table: means, 95 % intervals over seeds, gains over plain training, the recovered share of the gap."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.table import Table
from scipy import stats

from . import tables
from .results import Record, grouped

BASELINE = "plain"
UPPER_BOUND = "upper bound"
DEFAULT = "wdpurify"


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its 95 % interval (Student's t over seeds; NaN for a single seed)."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if np.isnan(self.half_width) else f"{self.mean:.1f} ± {self.half_width:.1f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of a few values."""
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return Estimate(float(array.mean()), float("nan"))
    return Estimate(float(array.mean()), float(stats.sem(array) * stats.t.ppf(0.975, len(array) - 1)))


def share(gains: Sequence[float], gaps: Sequence[float]) -> Estimate:
    """Mean gain as a percentage of the mean gap; the interval is that of a ratio of paired means (delta method)."""
    ratio = float(np.mean(gains) / np.mean(gaps))
    deviations = (np.asarray(gains) - ratio * np.asarray(gaps)) / np.mean(gaps)
    return Estimate(100.0 * ratio, 100.0 * estimate(list(deviations)).half_width)


def clear(gaps: Sequence[float]) -> bool:
    """Whether a gap is above zero for sure; one that may be zero is no unit to measure a share in."""
    return bool(len(gaps)) and bool(np.mean(gaps) > np.nan_to_num(estimate(gaps).half_width))


@dataclass(frozen=True)
class Row:
    """One method on one task: accuracies by test set (percent), gain on the shifted set (points), recovered share (percent).

    `measures` are further figures of the shifted set in percent, where they were taken; `looseness` is the bound of Theorem 1
    over the error that it bounds. `notes` are the warnings that its runs gave, in a few words each.
    """

    method: str
    seeds: int
    accuracy: dict[str, Estimate]
    gain: Estimate | None
    recovered: Estimate | None
    milliseconds: float
    measures: dict[str, Estimate] = field(default_factory=dict)
    looseness: Estimate | None = None
    notes: tuple[str, ...] = ()


def summarise(records: Sequence[Record]) -> list[Row]:
    """One row per method, in the order in which methods first appear. Gains are paired by seed.

    Args:
        records: runs of one task and backbone that read the test sets.
    """
    by_row = {
        row: {record["key"]["settings"]["seed"]: record for record in runs} for row, runs in grouped(records, "row").items()
    }
    return [_row(name, runs, by_row.get(BASELINE, {}), by_row.get(UPPER_BOUND, {})) for name, runs in by_row.items()]


def _row(name: str, by_seed: dict[int, Record], baseline: dict[int, Record], upper: dict[int, Record]) -> Row:
    runs = list(by_seed.values())
    tests = [test for test in runs[0]["accuracy"] if "validation" not in test]

    def over_baseline(others: dict[int, Record], seeds: Sequence[int]) -> list[float]:
        return [others[seed]["accuracy"][tests[-1]] - baseline[seed]["accuracy"][tests[-1]] for seed in seeds]

    shared = [seed for seed in by_seed if seed in baseline and name != BASELINE]
    gains = over_baseline(by_seed, shared)
    gaps = over_baseline(upper, [seed for seed in shared if seed in upper])
    measurable = name != UPPER_BOUND and len(gaps) == len(gains) and clear(gaps)
    taken = [run.get("measures", {}) for run in runs]  # older stores have none, and do not say how loose a bound is
    loose = [run.get("looseness") for run in runs]
    return Row(
        method=name,
        seeds=len(runs),
        accuracy={test: estimate([record["accuracy"][test] for record in runs]) for test in tests},
        gain=estimate(gains) if gains else None,
        recovered=share(gains, gaps) if measurable else None,
        milliseconds=1e3 * float(np.mean([record["seconds_per_step"] for record in runs])),
        measures={name: estimate([one[name] for one in taken]) for name in taken[0] if all(name in one for one in taken)},
        looseness=None if None in loose else estimate(loose),
        notes=_notes(runs),
    )


def _notes(records: Sequence[Record]) -> tuple[str, ...]:
    """The warnings of a row's runs, with the number of runs that gave each; older stores do not say."""
    counts = Counter(name for record in records for name in record.get("warnings", ()))
    return tuple(name if count == len(records) else f"{name} ({count} of {len(records)})" for name, count in counts.items())


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """The rows as text, a header first."""
    tests, figures = list(rows[0].accuracy), list(rows[0].measures)
    noted = ["warnings"] if any(row.notes for row in rows) else []
    header = ["method", *(f"{name} %" for name in (*tests, *figures)), f"gain on {tests[-1]}", "gap recovered %", "ms/step"]
    text = [[*header, *noted]]
    for row in rows:
        gain = "" if row.gain is None else f"{'' if row.gain.mean < 0 else '+'}{row.gain}"
        shares = ["" if row.recovered is None else str(row.recovered), f"{row.milliseconds:.1f}"]
        measured = [str(row.measures.get(name, "")) for name in figures]
        text.append(
            [row.method, *map(str, row.accuracy.values()), *measured, gain, *shares, *(", ".join(row.notes) for _ in noted)]
        )
    return text


def terminal_table(title: str, rows: Sequence[Row]) -> Table:
    """The rows as a table for the terminal."""
    caption = f"mean ± half a 95 % interval over {max(row.seeds for row in rows)} seeds"
    return tables.upright(title, lines(rows), caption=caption, bold=DEFAULT)


def verdict(rows: Sequence[Row]) -> str:
    """What purifying gained, in a sentence; empty where the default was not run."""
    found = {row.method: row for row in rows}
    if DEFAULT not in found or BASELINE not in found:
        return ""
    before, after = found[BASELINE].accuracy, found[DEFAULT].accuracy
    clean, *_, shifted = after
    gain = found[DEFAULT].gain or Estimate(float("nan"), float("nan"))
    verb = "changed nothing for sure:"
    if abs(gain.mean) > gain.half_width:
        verb = "gained" if gain.mean > 0 else "lost"
    return (
        f"Purifying {verb} {gain.mean:+.1f} points on the {shifted} set ({before[shifted].mean:.1f} to "
        f"{after[shifted].mean:.1f} %), and went from {before[clean].mean:.1f} to {after[clean].mean:.1f} % on the {clean} set."
    )


def bound_line(rows: Sequence[Row]) -> str:
    """How loose Theorem 1's bound is for the default, in a sentence; empty where it was not measured."""
    found = next((row for row in rows if row.method == DEFAULT and row.looseness is not None), None)
    if found is None:
        return ""
    clean, *_, shifted = found.accuracy
    return (
        f"Theorem 1 bounds the error on the {shifted} set, from that on the {clean} set, the head's spectral norm and the "
        f"exact W1, by {found.looseness} times what it is."
    )


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    return tables.markdown(lines(rows))
