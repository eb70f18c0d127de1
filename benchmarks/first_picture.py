"""The first picture of the README: training, auxiliary and test faces, and how accurate plain and purified networks are.

    python benchmarks/fer.py --bias 0.95 --seeds 0 1 2 3 4 --methods "upper bound" "adversarial multi-task" wdpurify
    python benchmarks/first_picture.py results/faces --out docs/first-picture.png

The bars are the stored runs; faces are drawn larger than they were trained on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import tyro
from matplotlib.figure import Figure
from purifybench import figures, report
from purifybench.faces.composition import EXPRESSIONS
from purifybench.faces.sets import HAIR, TASK_SETS, auxiliary_faces, partner, task_faces
from purifybench.results import ResultsStore

mpl.use("Agg")

#: What the bars are called, in their order.
BARS = {
    report.BASELINE: "plain",
    "adversarial multi-task": "gradient reversal, tuned",
    report.DEFAULT: "purified",
    report.UPPER_BOUND: "trained without the bias",
}
TEST = "unbiased"


@dataclass(frozen=True)
class Arguments:
    """The README's first picture.

    Attributes:
        store: folder of the runs of `fer.py`.
        task: a set of cartoon faces.
        bias: of the runs to show.
        size: pixels of a face.
        cache: folder for drawn faces.
        out: the picture.
    """

    store: Annotated[Path, tyro.conf.Positional]
    task: str = "mmi-like"
    bias: float = 0.95
    size: int = 96
    cache: Path = Path("results/faces-cache")
    out: Path = Path("results/first-picture.png")


def main() -> None:
    """Draw it."""
    arguments = tyro.cli(Arguments, description=__doc__)
    rows = bars(arguments)
    figure = Figure(figsize=(11, 4.1), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.7, 1))
    show_faces(left, arguments)
    show_bars(right, rows, arguments.bias)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=110)


def bars(arguments: Arguments) -> list[report.Row]:
    """The rows to show as bars.

    Raises:
        SystemExit: if the store lacks one of them.
    """
    wanted = [record for record in ResultsStore(arguments.store / "results.jsonl").records() if _is_wanted(record, arguments)]
    found = {row.method: row for row in report.summarise(wanted)}
    missing = [name for name in BARS if name not in found]
    if missing:
        raise SystemExit(
            f"{arguments.store} has no runs of {', '.join(missing)} on {arguments.task} with bias {arguments.bias}"
        )
    return [found[name] for name in BARS]


def _is_wanted(record: dict[str, Any], arguments: Arguments) -> bool:
    key = record["key"]
    data = key["data"]
    usual = data.get("label") == "hair" and data.get("auxiliary") == "same"
    return usual and key["task"] == arguments.task and data.get("bias") == arguments.bias and TEST in record["accuracy"]


def show_faces(panel: Any, arguments: Arguments) -> None:
    """Three strips: training, auxiliary, test."""
    where = {"seed": 0, "size": arguments.size, "cache": arguments.cache}
    own = task_faces(arguments.task, **where)
    others = auxiliary_faces(arguments.task, **where)
    training, test = [], []
    for number in range(len(EXPRESSIONS)):
        paired = partner(TASK_SETS[arguments.task], number)
        training.append(_first(own, split="train", expression=number, hair={paired}))
        test.append(_first(own, split="test", expression=number, hair=set(HAIR) - {paired}))
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


def _first(faces: Any, *, split: str, expression: int, hair: set[str]) -> int:
    """The first face with that expression and such hair."""
    rows = zip(faces["split"], faces["expression"], faces["hair"], strict=True)
    return next(number for number, row in enumerate(rows) if row[:2] == (split, expression) and row[2] in hair)


def show_bars(panel: Any, rows: list[report.Row], bias: float) -> None:
    """Accuracy on unbiased faces with its interval."""
    axes = panel.subplots()
    means = [row.accuracy[TEST].mean for row in rows]
    halves = np.nan_to_num([row.accuracy[TEST].half_width for row in rows])
    colours = [figures.colour_of(row.method) for row in rows]
    drawn = axes.barh([BARS[row.method] for row in rows], means, xerr=halves, capsize=3, color=colours)
    for bar, mean in zip(drawn, means, strict=True):
        axes.text(3, bar.get_y() + bar.get_height() / 2, f"{mean:.0f} %", color="white", weight="bold", va="center")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlim=(0, 100))
    panel.suptitle(f"accuracy where hair is at random\n(in training, {100 * bias:.0f} % are paired)", fontsize="medium")


if __name__ == "__main__":
    main()
