"""Figures of a benchmark: accuracy bars, what the critic saw over the steps, and the paper's Fig. 2."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .report import Row
from .results import Record, grouped

mpl.use("Agg")

#: Colour of a method in every figure, from the palette of Okabe and Ito, which colour-blind people can tell apart.
#: A method that is not here has matplotlib's next colour.
COLOURS = {
    "plain": "#999999",
    "upper bound": "#009e73",
    "wdpurify": "#0072b2",
    "wdpurify, balanced": "#0072b2",
    "wdpurify, erased at the end": "#56b4e9",
    "gradient reversal": "#d55e00",
    "adversarial multi-task": "#d55e00",
    "balanced batches": "#e69f00",
    "group DRO": "#cc79a7",
}


def accuracy_bars(rows: Sequence[Row], title: str, path: Path) -> None:
    """Bars of accuracy per method and test set, with 95 % intervals."""
    figure, axes = drawn(9, 0.55 * len(rows) + 1.6)
    found = pd.DataFrame([row.accuracy for row in rows], [row.method for row in rows])
    errors = found.map(lambda value: np.nan_to_num(value.half_width))
    found.map(lambda value: value.mean).plot.barh(xerr=errors, ax=axes, width=0.8, capsize=2, legend=False)
    axes.invert_yaxis()
    axes.set(xlabel="accuracy, %", xlim=(0, 105), title=title)
    figure.legend(loc="outside lower center", ncols=len(found.columns))
    save(figure, path)


def critic_over_steps(records: Sequence[Record], title: str, path: Path) -> None:
    """Estimate and gradient ratio over the steps, one line per purified method (mean over seeds)."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    read = [record for record in records if record["figures"] and "estimate" in record["figures"][0]]
    for row, of_row in grouped(read, "row").items():
        means = pd.concat(pd.DataFrame(record["figures"]) for record in of_row).groupby("step").mean()
        for panel, name in zip(panels, ("estimate", "gradient ratio"), strict=True):
            panel.plot(means[name], label=row, color=COLOURS.get(row))
            panel.set(xlabel="step", ylabel=name)
    panels[0].set_yscale("symlog", linthresh=0.1)
    panels[1].set_yscale("log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(title)
    save(figure, path)


def soak(readings: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    """Resident memory and time per step over the steps of very long trainings, a line per form.

    Args:
        readings: by form, rows of step, bytes, open files and seconds per step.
        path: the figure.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    memory, duration = figure.subplots(1, 2)
    for form, rows in readings.items():
        values = np.array(rows)
        memory.plot(values[:, 0], (values[:, 1] - values[0, 1]) / 2**20, label=form)
        duration.plot(values[:, 0], 1e3 * values[:, 3], label=form)
    memory.set(xlabel="step", ylabel="MiB more than at the first reading", title="resident memory")
    duration.set(xlabel="step", ylabel="ms", title="time per step", ylim=(0, None))
    figure.legend(*memory.get_legend_handles_labels(), loc="outside lower center", ncols=len(readings))
    save(figure, path)


def component_shares(records: Sequence[Record], title: str, path: Path) -> None:
    """Share of the features' variance in the leading principal components, per method (the paper's Fig. 2)."""
    rows = grouped(records, "row")
    shares = pd.DataFrame(
        [np.mean([record["component_shares"] for record in runs], axis=0) for runs in rows.values()], list(rows)
    )
    bands = {"1 and 2": slice(0, 2), "3 to 5": slice(2, 5), "6 to 10": slice(5, 10)}
    percent = pd.DataFrame({f"components {name}": 100 * shares.iloc[:, band].sum(axis=1) for name, band in bands.items()})
    figure, axes = drawn(9, 0.4 * len(rows) + 1.6)
    percent.plot.barh(stacked=True, ax=axes, legend=False)
    axes.invert_yaxis()
    axes.set(xlabel="share of variance, %", xlim=(0, 100), title=title)
    figure.legend(loc="outside lower center", ncols=len(bands))
    save(figure, path)


def accuracy_over(rows: Mapping[float, Sequence[Row]], name: str, title: str, path: Path) -> None:
    """Accuracy on the last test set against a quantity, one line per method with its 95 % interval."""
    figure, axes = drawn(8, 5)
    last = {place: {row.method: list(row.accuracy.values())[-1] for row in found} for place, found in rows.items()}
    for method, points in pd.DataFrame(last).iterrows():
        points = points.dropna()
        means = points.map(lambda value: value.mean)
        halves = points.map(lambda value: np.nan_to_num(value.half_width))
        axes.errorbar(points.index, means, yerr=halves, marker="o", capsize=2, label=method, color=COLOURS.get(method))
    axes.set(xlabel=name, ylabel="accuracy on unbiased rows, %", title=title)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    save(figure, path)


def cost_and_gain(cost: Mapping[str, float], recovered: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """The share of the gap that each form recovers against what it costs, one line per task.

    Args:
        cost: time of a step over the plain loop's, by form, whose name begins with its auxiliary rows; forms that act in
            every step are joined by a line.
        recovered: by task and form, in percent.
        title: of the figure.
        path: file to write.
    """
    figure, axes = drawn(9, 5.5)
    for task, shares in recovered.items():
        steady, rarer = ([name for name in shares if name.endswith("every step") == every] for every in (True, False))
        (line,) = axes.plot([cost[name] for name in steady], [shares[name] for name in steady], "o-", label=task)
        axes.plot([cost[name] for name in rarer], [shares[name] for name in rarer], "s", color=line.get_color(), mfc="white")
        for name, share in shares.items():
            rows, *_, every, _ = name.split()
            said = rows if name in steady else f"{rows}/{every}"
            offset = -14 if name in steady else 7
            axes.annotate(said, (cost[name], share), fontsize=8, ha="center", xytext=(0, offset), textcoords="offset points")
    axes.set(xlabel="time of a step over the plain loop's", ylabel="gap recovered, %", title=title, ylim=(0, 110))
    axes.legend(loc="lower right", title="16: auxiliary rows beside 64 task rows\n32/2: in every second step")
    save(figure, path)


def separation_and_leakage(points: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """What the critic reads against what a probe reads, one mark per run.

    Args:
        points: by task and training, named ``"task, training"``: pairs of separation in units of its value by chance, and of
            leakage above chance in percent of what there is above chance.
        path: file to write.
    """
    figure, axes = drawn(8, 5.5)
    tasks = list(dict.fromkeys(name.partition(", ")[0] for name in points))
    trainings = list(dict.fromkeys(name.partition(", ")[2] for name in points))
    for name, pairs in points.items():
        task, _, training = name.partition(", ")
        style = {"color": f"C{tasks.index(task) % 10}", "marker": "osX^Dv"[trainings.index(training) % 6]}
        axes.scatter([leak for _, leak in pairs], [apart for apart, _ in pairs], label=name, alpha=0.8, **style)
    axes.axhline(1.0, color="grey", linestyle="--", linewidth=1)
    axes.axvline(0.0, color="grey", linestyle="--", linewidth=1)
    axes.set(
        xlabel="leakage to a linear probe, % of the way from chance to 100 %", ylabel="separation over its value by chance"
    )
    figure.legend(loc="outside right center", fontsize="small")
    save(figure, path)


def drawn(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with one panel."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def save(figure: Figure, path: Path, *, dpi: int = 120) -> None:
    """Write a figure, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
