"""One table over benches: per method and bench the share of the gap recovered, the accuracy and the seconds per step."""

from collections.abc import Sequence

import pandas as pd

from .methods import FITTED_ON
from .report import estimate, summarise
from .results import Record, grouped

TITLES = ("gap recovered %", "accuracy on unbiased rows %", "milliseconds per step")


def figures(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """The tables by title, of runs on several benches: estimates by method and bench.

    A bench whose gap is not clearly above zero has no shares. Unbiased are the test's rows, or those of validation for runs
    that do not read it. Methods that take no step have no time per step.
    """
    found: dict[str, dict[str, dict[str, object]]] = {name: {} for name in TITLES}
    recovered, accuracy, milliseconds = found.values()
    for bench, of_bench in grouped(records, "task").items():
        rows = summarise(of_bench)
        recovered[bench] = {row.method: row.recovered for row in rows if row.recovered is not None}
        accuracy[bench] = {row.method: list(row.accuracy.values())[-1] for row in rows}
        steps = {method: runs for method, runs in grouped(of_bench, "row").items() if method not in FITTED_ON}
        milliseconds[bench] = {
            method: estimate([1e3 * run["seconds_per_step"] for run in runs]) for method, runs in steps.items()
        }
    return {title: pd.DataFrame(table, dtype=object).dropna(axis=1, how="all") for title, table in found.items()}


def ordered(records: Sequence[Record], methods: Sequence[str]) -> list[str]:
    """The rows that the records have, in the order of the methods; one chosen by the oracle follows its own."""
    rows = dict.fromkeys((record["key"]["method"], record["key"]["row"]) for record in records)
    return [row for method in methods for of, row in rows if of == method]


def lines(table: pd.DataFrame, rows: Sequence[str], *, mean: bool) -> list[list[str]]:
    """A table as rows of text, a header first.

    Args:
        table: estimates by method and bench.
        rows: methods, in their order; those without a figure are left out.
        mean: add the mean over benches, with their number where a method has not all that are measured.
    """
    text = [["method", *table, *(["mean"] if mean else [])]]
    for row in [row for row in rows if row in table.index]:
        there = table.loc[row].dropna()
        average = f"{there.map(lambda found: found.mean).mean():.1f}"
        number = "" if len(there) == len(table.columns) else f" (of {len(there)})"
        text.append([row, *table.loc[row].fillna("-").map(str), *([average + number] if mean else [])])
    return text
