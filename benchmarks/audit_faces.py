"""The label audit on cartoon faces, before training; and what is left of the hair colour after it.

    python benchmarks/audit_faces.py

For each seed: which of hair, smiling and style is fit to purify of, for a classifier of expressions that is trained on one set
and judged on the two others; then how well a probe decodes the hair colour from the features of plain training, of the purified
network and of the control with shuffled labels, on auxiliary faces that took no part in training. Writes `report.md`,
`audit-SEED.json` and `audit.png` to `--out`; drawn faces are kept in `--cache`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
import torch
import tyro
from purifybench import figures, tables
from purifybench.backbones import build_network
from purifybench.command import refuse_wrong
from purifybench.faces.sets import TASK_SETS, auxiliary_faces
from purifybench.methods import FACE_METHODS, Run
from purifybench.network import Network
from purifybench.tasks import TASKS, Task, to_float

from wdpurify.audit import Audit, Leakage, audit, leakage

COLUMNS = ("hair", "smiling", "style")
TRAINED = {"plain": "plain", "purified of hair": "wdpurify", "control: shuffled": "control: shuffled groups"}
#: Auxiliary faces that no training sees: the leakage after training is measured on them.
HELD_OUT = 400


@dataclass(frozen=True)
class Arguments:
    """The label audit on cartoon faces.

    Attributes:
        train: set of the task rows and of the auxiliary mixture.
        seeds: one audit each, of faces, weights and trainings.
        bias: share of the task faces whose hair colour goes with the expression.
        repeats: trainings per label.
        steps: optimiser steps of each training of the audit.
        task_steps: optimiser steps of the networks whose leakage is measured; 0 leaves them out.
        permutations: for the leakage.
        cache: folder for drawn faces.
        out: folder for results.
    """

    train: str = "ck-like"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    bias: float = 0.7
    repeats: int = 4
    steps: int = 200
    task_steps: int = 300
    permutations: int = 50
    cache: Path = Path("results/faces-cache")
    out: Path = Path("results/audit")


def main() -> None:
    """Audit, train, measure, report."""
    arguments = tyro.cli(Arguments, description=__doc__)
    refuse_wrong(arguments, known={"train": TASK_SETS}, filled=["seeds"], shares=["bias"])
    console = tables.console(120)
    datasets.disable_progress_bars()
    arguments.out.mkdir(parents=True, exist_ok=True)
    audits: dict[int, Audit] = {}
    left: dict[str, list[Leakage]] = {name: [] for name in TRAINED}
    for seed in arguments.seeds:
        audits[seed] = audited(seed, arguments)
        console.print(f"seed {seed}: " + " > ".join(f"{one.column.name} ({one.verdict})" for one in audits[seed].columns))
        (arguments.out / f"audit-{seed}.json").write_text(audits[seed].json(), encoding="utf-8")
        if arguments.task_steps:
            for name, found in leakages(seed, arguments).items():
                left[name].append(found)
                console.print(f"  hair in the features of {name}: {found}")
    text = report(audits, left, arguments)
    (arguments.out / "report.md").write_text(text, encoding="utf-8")
    plot(audits, arguments.out / "audit.png")
    console.print(text, markup=False, soft_wrap=True)


def audited(seed: int, arguments: Arguments) -> Audit:
    """The audit of one seed, of a network with fresh weights."""
    task = TASKS[arguments.train](seed=seed, cache=arguments.cache, bias=arguments.bias)
    faces = auxiliary_faces(arguments.train, seed=seed, size=32, cache=arguments.cache)
    others = [task.tests[name] for name in TASK_SETS if name != arguments.train]
    evaluation = to_float(torch.cat([split.images for split in others])), torch.cat([split.labels for split in others])
    return audit(
        fresh(seed, task),
        (to_float(task.train.images), task.train.labels),
        (to_float(task.auxiliary.images), {name: list(faces[name]) for name in COLUMNS}),
        COLUMNS,
        evaluation=evaluation,
        repeats=arguments.repeats,
        steps=arguments.steps,
        permutations=arguments.permutations,
        seed=seed,
    )


def fresh(seed: int, task: Task) -> Network:
    """The network that the benchmarks of this seed start from."""
    torch.manual_seed(seed)
    return build_network("small-bn", task.n_classes)


def leakages(seed: int, arguments: Arguments) -> dict[str, Leakage]:
    """Leakage of the hair colour in the features of networks that were trained on the task in several ways."""
    task = TASKS[arguments.train](seed=seed, cache=arguments.cache, bias=arguments.bias)
    held = to_float(task.auxiliary.images[-HELD_OUT:]), task.auxiliary.groups[-HELD_OUT:]
    seen = replace(task.auxiliary, images=task.auxiliary.images[:-HELD_OUT], groups=task.auxiliary.groups[:-HELD_OUT])
    task = replace(task, auxiliary=seen)
    return {
        name: leakage(trained(task, method, seed, arguments.task_steps), *held, permutations=arguments.permutations, seed=seed)
        for name, method in TRAINED.items()
    }


def trained(task: Task, name: str, seed: int, steps: int) -> Network:
    """A network trained on the task by a method, with the rates of the other benchmarks."""
    network = fresh(seed, task)
    method = FACE_METHODS[name](Run(network, task, seed, steps=steps))
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max(1, steps * 2 // 3), 0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randperm(len(task.train.labels), generator=generator)[:64]
        loss = method.loss(to_float(task.train.images[rows]), task.train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return network


def report(audits: dict[int, Audit], left: dict[str, list[Leakage]], arguments: Arguments) -> str:
    """Two tables: transfer effect and verdict per seed and label, leakage per seed and training."""
    parts = [f"Cartoon faces, {arguments.train}, bias {arguments.bias}, transfer judged on the two other sets"]
    lines = [["seed", "best to worst", *COLUMNS]]
    for seed, found in audits.items():
        order = ", ".join(entry.column.name for entry in found.columns)
        lines.append([str(seed), order, *(f"{_effect(found, name)}, {found[name].verdict}" for name in COLUMNS)])
    parts.append(tables.markdown(lines))
    if arguments.task_steps:
        of_seeds = zip(map(str, audits), *(map(str, left[name]) for name in TRAINED), strict=True)
        parts.append(tables.markdown([["seed", *TRAINED], *map(list, of_seeds)]))
    return "\n\n".join(parts) + "\n"


def _effect(found: Audit, name: str) -> str:
    transfer = found[name].transfer
    assert transfer is not None
    alone = "" if transfer.carried is None else f"; alone {100 * transfer.carried:+.1f}"
    return f"{100 * transfer.effect:+.1f} ({100 * transfer.low:+.1f} to {100 * transfer.high:+.1f}){alone}"


def plot(audits: dict[int, Audit], path: Path) -> None:
    """Transfer effects with their intervals, one colour per label."""
    figure, axes = figures.drawn(7, 4)
    places = np.arange(len(audits))
    for number, name in enumerate(COLUMNS):
        found = [one[name].transfer for one in audits.values()]
        effects = np.array([[100 * one.effect, 100 * one.low, 100 * one.high] for one in found if one is not None])
        errors = [effects[:, 0] - effects[:, 1], effects[:, 2] - effects[:, 0]]
        axes.errorbar(places + 0.15 * (number - 1), effects[:, 0], errors, fmt="o", capsize=3, label=name)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xticks(places, [f"seed {seed}" for seed in audits])
    axes.set(ylabel="transfer effect on the task, points", title="negative or null: irrelevant")
    axes.legend()
    figures.save(figure, path)


if __name__ == "__main__":
    main()
