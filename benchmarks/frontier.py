"""How much is gained for what cost: a plot of what two other benchmarks have measured.

    python benchmarks/choose_defaults.py --backbones small-bn --tasks colour photo
    python benchmarks/overhead.py --backbones resnet18 --batch-size 32 --frontier --out results/frontier.json
    python benchmarks/frontier.py

The accuracy is that of validation rows of tuning seeds, as in `choose_defaults.py`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from purifybench import figures, frontier, tables
from purifybench.results import Record, ResultsStore


@dataclass(frozen=True)
class Arguments:
    """How much is gained for what cost.

    Attributes:
        accuracy: results of `choose_defaults.py`.
        accuracy_backbone: network whose accuracies count.
        cost: JSON of `overhead.py --frontier`.
        out: the figure.
    """

    accuracy: Path = Path("results/choose_defaults/results.jsonl")
    accuracy_backbone: str = "small-bn"
    cost: Path = Path("results/frontier.json")
    out: Path = Path("results/frontier.png")


def shares(records: list[Record]) -> dict[str, dict[str, float]]:
    """Share of the gap that each form recovers on rows with the shift, in percent, by task.

    Args:
        records: runs on one network; the newest of equal ones counts.
    """
    found: dict[tuple[str, str], dict[int, float]] = {}
    for record in records:
        key = record["key"]
        found.setdefault((key["task"], key["row"]), {})[key["settings"]["seed"]] = record["accuracy"]["oracle"]
    mean = {of: float(np.mean(list(seeds.values()))) for of, seeds in found.items()}
    tasks = dict.fromkeys(task for task, _ in mean)
    names = [frontier.form_name(*form) for form in frontier.FORMS]
    return {
        task: {
            name: 100.0 * (mean[task, name] - mean[task, "plain"]) / (mean[task, "upper bound"] - mean[task, "plain"])
            for name in names
            if (task, name) in mean
        }
        for task in tasks
    }


def main() -> None:
    """Read, print, plot."""
    arguments = tyro.cli(Arguments, description=__doc__)
    for path in (arguments.accuracy, arguments.cost):
        if not path.is_file():
            raise SystemExit(f"there is no {path}: run the commands of `frontier.py --help` first")
    store = ResultsStore(arguments.accuracy)
    recovered = shares([one for one in store.records() if one["key"]["settings"]["backbone"] == arguments.accuracy_backbone])
    measured = json.loads(arguments.cost.read_text())["result"]
    backbone, rows = next(iter(measured.items()))
    cost = {name: rows[name]["ratio"] for name in (frontier.form_name(*form) for form in frontier.FORMS) if name in rows}
    if not cost or not any(recovered.values()):
        raise SystemExit("nothing to plot: the forms of `purifybench/frontier.py` are in neither or only one of the two files")
    recovered = {task: {name: share for name, share in found.items() if name in cost} for task, found in recovered.items()}
    table = [["form", "time over the plain loop's", *(f"{task}, gap recovered %" for task in recovered)]]
    for name, ratio in cost.items():
        table.append([name, f"{ratio:.2f}x", *(f"{found[name]:.0f}" if name in found else "" for found in recovered.values())])
    title = f"accuracy on {arguments.accuracy_backbone}, cost on {backbone}"
    tables.show(title, table, arguments.out.with_suffix(".md"))
    figures.cost_and_gain(cost, recovered, title, arguments.out)


if __name__ == "__main__":
    main()
