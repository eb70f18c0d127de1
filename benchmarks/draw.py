"""Pictures of the pages, of stored runs or of short ones.

    python benchmarks/draw.py first results/faces --out docs/first-picture.png     training, auxiliary and test faces, and bars
    python benchmarks/draw.py features --out benchmarks/figures/features-colour.png   features, plain and purified
    python benchmarks/draw.py curves --out docs/curves.png      what healthy and unhealthy curves of `metrics()` look like
    python benchmarks/draw.py frontier                          how much is gained for what cost

Each has a `--help`, which says what is to be run before.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import tyro
from audit_faces import trained
from matplotlib.figure import Figure
from purifybench import figures, report, tables
from purifybench import frontier as costs
from purifybench.command import refuse_wrong
from purifybench.faces.composition import EXPRESSIONS
from purifybench.faces.sets import HAIR, TASK_SETS, auxiliary_faces, partner, task_faces
from purifybench.methods import Methods, Purified
from purifybench.results import Record, ResultsStore, described, grouped
from purifybench.tasks import biased_colour, to_float
from purifybench.training import Outcome, Settings, train
from rich.progress import track

from wdpurify.audit import feature_map

#: What the bars of the first picture are called, in their order.
BARS = {
    report.BASELINE: "plain",
    "adversarial multi-task": "gradient reversal, tuned",
    report.DEFAULT: "purified",
    report.UPPER_BOUND: "trained without the bias",
}
#: What the first picture is of.
TASK = "mmi-like"
BIAS = 0.95
TEST = "unbiased"
#: What the curves are of, and the options that make it so.
FORMS: Methods = {
    "healthy: the groups come together": Purified,
    "watched (strength 0): there is something to forget": partial(Purified, strength=0.0),
    "labels that say nothing": partial(Purified, shuffled=True),
    "critic left behind (critic_lr=1e-5)": partial(Purified, critic_lr=1e-5),
    "pull far too strong (strength 20, no fade)": partial(Purified, strength=20.0, fade=0.0),
}


def first(
    store: Annotated[Path, tyro.conf.Positional],
    *,
    cache: Path = Path("results/faces-cache"),
    out: Path = Path("results/first-picture.png"),
) -> None:
    """The first picture of the README: training, auxiliary and test faces, and how accurate plain and purified networks are.

    The bars are the stored runs of `fer.py --bias 0.95 --methods "upper bound" "adversarial multi-task" wdpurify`; faces are
    drawn larger than they were trained on.

    Args:
        store: folder of the runs.
        cache: folder for drawn faces.
        out: the picture.
    """
    rows = bars(store, TASK, BIAS)
    figure = Figure(figsize=(11, 4.1), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.7, 1))
    where = {"seed": 0, "size": 96, "cache": cache}
    _show_faces(left, task_faces(TASK, **where), auxiliary_faces(TASK, **where))
    _show_bars(right, rows)
    figures.save(figure, out, dpi=110)


def bars(store: Path, task: str, bias: float) -> list[report.Row]:
    """The rows to show as bars.

    Raises:
        SystemExit: if the store lacks one of them.
    """
    shown = {"label": "hair", "auxiliary": "same", "task": task, "bias": bias}
    records = ResultsStore(store / "results.jsonl").records()
    wanted = [record for record in records if shown.items() <= described(record).items() and TEST in record["accuracy"]]
    found = {row.method: row for row in report.summarise(wanted)}
    if missing := [name for name in BARS if name not in found]:
        raise SystemExit(f"{store} has no runs of {', '.join(missing)} on {task} with bias {bias}")
    return [found[name] for name in BARS]


def _show_faces(panel: Any, own: Any, others: Any) -> None:
    """Three strips: training, auxiliary, test."""

    def first_row(split: str, expression: int, hair: set[str]) -> int:
        rows = zip(own["split"], own["expression"], own["hair"], strict=True)
        return next(number for number, row in enumerate(rows) if row[:2] == (split, expression) and row[2] in hair)

    paired = [partner(TASK_SETS[TASK], number) for number in range(len(EXPRESSIONS))]
    training = [first_row("train", number, {hair}) for number, hair in enumerate(paired)]
    test = [first_row("test", number, set(HAIR) - {hair}) for number, hair in enumerate(paired)]
    auxiliary = [others["hair"].index(HAIR[number % len(HAIR)]) for number in range(len(EXPRESSIONS))]
    labels = [others["hair"][row] for row in auxiliary]
    strips = [
        ("you train on: hair colour gives the expression away", own, training, list(EXPRESSIONS)),
        ("auxiliary faces: hair colour is labelled, nothing else", others, auxiliary, labels),
        ("you are asked: any hair", own, test, ["?"] * len(test)),
    ]
    for strip, (title, rows, chosen, names) in zip(panel.subfigures(len(strips), 1), strips, strict=True):
        strip.suptitle(title, fontsize="medium")
        for axes, row, name in zip(strip.subplots(1, len(chosen)), chosen, names, strict=True):
            axes.imshow(np.asarray(rows[row]["image"]))
            axes.set_xlabel(name, fontsize="small")
            axes.set(xticks=[], yticks=[])


def _show_bars(panel: Any, rows: list[report.Row]) -> None:
    """Accuracy on unbiased faces with its interval."""
    axes = panel.subplots()
    means = [row.accuracy[TEST].mean for row in rows]
    halves = np.nan_to_num([row.accuracy[TEST].half_width for row in rows])
    colours = [figures.COLOURS.get(row.method) for row in rows]
    drawn = axes.barh([BARS[row.method] for row in rows], means, xerr=halves, capsize=3, color=colours)
    for bar, mean in zip(drawn, means, strict=True):
        axes.text(3, bar.get_y() + bar.get_height() / 2, f"{mean:.0f} %", color="white", weight="bold", va="center")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlim=(0, 100))
    panel.suptitle(f"accuracy where hair is at random\n(in training, {100 * BIAS:.0f} % are paired)", fontsize="medium")


def features(*, seed: int = 0, steps: int = 400, out: Path = Path("results/features-colour.png")) -> None:
    """What purifying does to the features: digits on coloured ground, trained plain and purified of the colour.

    Both networks are trained as in `digits.py` on digits whose ground gives the class away in 95 % of the rows; the picture
    shows features of test digits in random colours, once by digit and once by the number of the colour, which in training
    mostly is the digit's.

    Args:
        seed: of data, weights and training.
        steps: optimiser steps of each network.
        out: the picture.
    """
    refuse_wrong(SimpleNamespace(steps=steps), least={"steps": 1})
    task = biased_colour.build(seed=seed, keep_colours=True)
    shifted = task.tests["shifted"]
    assert shifted.groups is not None
    found = feature_map(
        {"plain": trained(task, "plain", seed, steps), "purified": trained(task, "wdpurify", seed, steps)},
        to_float(shifted.images),
        shifted.labels,
        shifted.groups,
        class_name="digit",
        nuisance_name="colour",
        permutations=20,
        seed=seed,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    found.plot(out)
    print(f"{found}\ndrawn into {out}")


def curves(*, seed: int = 0, steps: int = 400, out: Path = Path("results/curves.png")) -> None:
    """Healthy and unhealthy curves on biased colour: short runs, as it should be, and with one thing wrong each.

    Args:
        seed: of data and network.
        steps: per run.
        out: the figure.
    """
    task = biased_colour.build(seed=seed)
    settings = Settings(steps=steps, seed=seed)
    device = torch.device("cpu")
    made = {form: train(task, method, settings, device=device) for form, method in track(FORMS.items(), "runs")}
    figure = Figure(figsize=(10, 1.9 * len(made)), layout="constrained")
    for row, (form, outcome) in zip(figure.subfigures(len(made), 1), made.items(), strict=True):
        unbiased = list(outcome.accuracy.values())[-1]
        row.suptitle(f"{form}; {unbiased:.0f} % on unbiased digits", fontsize="medium")
        _show_curves(row.subplots(1, 3), outcome)
        print(f"{form}: {unbiased:.1f} % on unbiased digits")
    figures.save(figure, out, dpi=90)


def _show_curves(panels: Sequence[Any], outcome: Outcome) -> None:
    """Separation beside chance, gradient ratio, loss."""
    found = pd.DataFrame(outcome.figures).set_index("step")
    apart = found[["separation", "separation by chance"]]
    apart.plot(ax=panels[0], style=["-", "--"], color=["C0", "gray"], legend=False)
    panels[0].set(title="separation (dashed: by chance)", ylim=(-0.2, 2.4))
    found["gradient ratio"].plot(ax=panels[1], title="gradient_ratio", ylim=(0, None))
    found["loss"].plot(ax=panels[2], title="loss", ylim=(0, 4))
    for panel in panels:
        panel.set_xlabel("")
        panel.title.set_fontsize("small")
        panel.tick_params(labelsize="small")


def frontier(
    *,
    accuracy: Path = Path("results/choose_defaults/results.jsonl"),
    accuracy_backbone: str = "small-bn",
    cost: Path = Path("results/frontier.json"),
    out: Path = Path("results/frontier.png"),
) -> None:
    """How much is gained for what cost: a plot of what two other benchmarks have measured, and a table.

    Run `choose_defaults.py --backbones small-bn --tasks colour photo` before, and `overhead.py --backbones resnet18
    --batch-size 32 --frontier --out results/frontier.json`. The accuracy is that of validation rows of tuning seeds.

    Args:
        accuracy: results of `choose_defaults.py`.
        accuracy_backbone: network whose accuracies count.
        cost: JSON of `overhead.py --frontier`.
        out: the figure.
    """
    for path in (accuracy, cost):
        if not path.is_file():
            raise SystemExit(f"there is no {path}: run the commands of `draw.py frontier --help` first")
    names = [costs.form_name(*form) for form in costs.FORMS]
    backbone, measured = next(iter(json.loads(cost.read_text(encoding="utf-8"))["result"].items()))
    ratios = {name: measured[name]["ratio"] for name in names if name in measured}
    records = grouped(ResultsStore(accuracy).records(), "backbone").get(accuracy_backbone, [])
    recovered = {task: _shares(runs, list(ratios)) for task, runs in grouped(records, "task").items()}
    if not any(recovered.values()):
        raise SystemExit("nothing to plot: the forms of `purifybench/frontier.py` are in neither or only one of the two files")
    lines = [["form", "time over the plain loop's", *(f"{task}, gap recovered %" for task in recovered)]]
    for name, ratio in ratios.items():
        shares = (f"{found[name]:.0f}" if name in found else "" for found in recovered.values())
        lines.append([name, f"{ratio:.2f}x", *shares])
    title = f"accuracy on {accuracy_backbone}, cost on {backbone}"
    tables.show(title, lines, out.with_suffix(".md"))
    figures.cost_and_gain(ratios, recovered, title, out)


def _shares(records: list[Record], forms: Sequence[str]) -> dict[str, float]:
    """Share of the gap that each form recovers on rows with the shift, in percent; the newest of equal runs counts."""
    newest = {(row, seed): runs[-1]["accuracy"]["oracle"] for (row, seed), runs in grouped(records, "row", "seed").items()}
    mean = {row: float(np.mean([newest[of] for of in newest if of[0] == row])) for row, _ in newest}
    found = [form for form in forms if form in mean]
    return {form: 100.0 * (mean[form] - mean["plain"]) / (mean["upper bound"] - mean["plain"]) for form in found}


def main() -> None:
    """Draw the picture that the command line names."""
    pictures = {"first": first, "features": features, "curves": curves, "frontier": frontier}
    tyro.extras.subcommand_cli_from_dict(pictures, description=__doc__)


if __name__ == "__main__":
    main()
