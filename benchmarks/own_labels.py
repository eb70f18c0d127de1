"""Labels on your own rows: the nuisance of each training row is known, and goes with its class.

    python benchmarks/own_labels.py                              biased colour, cartoon faces with hair or style, tinted shapes
    python benchmarks/own_labels.py --tasks pictures --data PATH.parquet --class-column label --nuisance-column style \\
        --image-size 64 --network purifybench.pretrained:efficientnet_lite0
    python benchmarks/own_labels.py --biases 0.5 0.7 0.9 0.95 1.0    accuracy over the bias, as a plot

The auxiliary rows are the training rows themselves. Compared are the plain loop, task batches drawn evenly over the cells of
nuisance and class, group DRO and gradient reversal (tuned), and purifying: with the rows as they are, with balanced rows, and
with balanced batches too. At a bias of 1 each class has one nuisance alone, and what balances auxiliary rows is left out.
Writes a table per task and bias, `results.jsonl` (one line per run), `accuracy.csv` and figures to `--out`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import tyro
from accelerate import PartialState
from pictures import check as check_pictures
from pictures import settings as picture_settings
from pictures import sizes
from purifybench import figures, paper_tables
from purifybench.arguments import refuse_empty, refuse_no_share, refuse_unknown
from purifybench.faces.sets import TASK_SETS
from purifybench.former_names import with_present_names
from purifybench.jobs import Job
from purifybench.methods import OWN_ROWS_METHODS
from purifybench.picture_options import FineTuning, Pictures, Rows
from purifybench.plan import Plan, carry_out
from purifybench.report import BASELINE, estimate
from purifybench.results import Record, ResultsStore
from purifybench.task_report import write_task_report
from purifybench.tasks import Task, biased_colour, cartoon_faces, on_own_rows, pictures, tinted_shapes
from purifybench.training import Settings
from rich.console import Console

#: Seeds that choose the options of tuned methods; no reported seed takes part.
TUNING_SEEDS = (1001, 1002)
TASKS = ("colour", *TASK_SETS, "pictures", "shapes")
#: Their steps, where nothing else is said.
STEPS = {"colour": 400, **dict.fromkeys(TASK_SETS, 500), "shapes": 400}
#: Refused at a bias of 1, where each class has one nuisance alone, so that nothing tells them apart.
BALANCED = frozenset(name for name, make in OWN_ROWS_METHODS.items() if getattr(make, "keywords", {}).get("balance"))
#: Of the tinted shapes; a network whose features a pull can shrink to a point.
SHAPES_NETWORK = "small-pool"


@dataclass(frozen=True)
class Arguments:
    """Labels on your own rows.

    Attributes:
        pictures: which pictures the task of that name has; cartoon faces by default.
        rows: rows of each split of the pictures.
        fine_tuning: network and training of the pictures; the shapes have its training and small-pool, biased colour and the
            sets of faces have small-bn and SGD.
        tasks: colour; the sets of cartoon faces, whose hair colour goes with the expression; pictures; shapes. All by default,
            pictures alone with `--data`.
        methods: names of methods; all by default. Plain training is always among them.
        biases: shares of the training rows of a class that have its nuisance; several make a plot.
        seeds: one run each.
        steps: optimiser steps per run; by default 400 for colour and shapes, 500 for faces, and 200 for pictures of your own.
        workers: runs side by side on a CPU.
        cache: folder for drawn faces.
        out: folder for results.
        resume: keep what is there of these runs, such as after a kill; otherwise they are made anew.
    """

    pictures: tyro.conf.OmitArgPrefixes[Pictures] = field(default_factory=Pictures)
    rows: tyro.conf.OmitArgPrefixes[Rows] = field(default_factory=Rows)
    fine_tuning: tyro.conf.OmitArgPrefixes[FineTuning] = field(default_factory=FineTuning)
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    biases: tuple[float, ...] = (0.95,)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int | None = None
    workers: int = os.cpu_count() or 1
    cache: Path = Path("results/faces-cache")
    out: Path = Path("results/own_labels")
    resume: bool = False


@dataclass(frozen=True)
class AtBias(Arguments):
    """The same at one bias, as the picture benchmark's own functions take it.

    Attributes:
        bias: the bias.
    """

    bias: float = 0.95


def main() -> None:
    """Tune what is to be tuned, run everything, report."""
    arguments = with_present_names(tyro.cli(Arguments, description=__doc__))
    datasets.disable_progress_bars()
    check(arguments)
    store = ResultsStore(arguments.out / "results.jsonl")
    made: dict[str, dict[float, list[Record]]] = {}
    for task in task_names(arguments):
        for at in at_biases(arguments):
            planned = plan(task, at)
            builder = partial(build_task, arguments=at)
            title = f"{task}, bias {at.bias}"
            jobs = carry_out([planned], builder, store, workers=arguments.workers, resume=arguments.resume, title=title)
            if PartialState().is_main_process:
                found = store.found(job.key() for job in jobs)
                made.setdefault(task, {})[at.bias] = found
                console = Console(width=max(Console().width, 160))
                folder = arguments.out / f"{task}-{at.bias}"
                write_task_report(title, found, planned.chosen_options(store), asdict(at), folder, console)
    if PartialState().is_main_process:
        every = [record for of_task in made.values() for records in of_task.values() for record in records]
        paper_tables.write_accuracies(every, arguments.out / "accuracy.csv")
        for task, of_task in made.items():
            if len(of_task) > 1:
                figures.over_bias(curves(of_task), task, arguments.out / f"{task}-bias.png")


def check(arguments: Arguments) -> None:
    """Say what is wrong with the arguments before anything runs."""
    refuse_unknown("tasks", arguments.tasks, TASKS)
    refuse_unknown("methods", arguments.methods, OWN_ROWS_METHODS)
    for name in ("seeds", "biases"):
        refuse_empty(name, getattr(arguments, name))
    for at in at_biases(arguments):
        refuse_no_share("biases", at.bias)
        check_pictures(replace(at, methods=()))  # the picture benchmark has others


def at_biases(arguments: Arguments) -> list[AtBias]:
    """The arguments at each bias."""
    return [AtBias(**vars(arguments), bias=bias) for bias in arguments.biases]


def task_names(arguments: Arguments) -> tuple[str, ...]:
    """The tasks to run."""
    return arguments.tasks or (("pictures",) if arguments.pictures.data else TASKS)


def settings(task: str, at: AtBias, backbone: str, seed: int) -> Settings:
    """The settings of one run."""
    steps = at.steps or STEPS.get(task)
    if steps is None or task == "shapes":
        return picture_settings(replace(at, steps=steps), backbone, seed)  # type: ignore[arg-type]
    return Settings(backbone=backbone, steps=steps, batch_size=64, seed=seed)


def plan(task: str, at: AtBias) -> Plan:
    """The runs of a task."""
    described: dict[str, Any] = {"bias": at.bias, "own rows": True}
    if task == "colour" or task in TASK_SETS:
        described["test"] = "every nuisance"
    if task == "pictures":
        described |= {"pictures": asdict(at.pictures), "sizes": asdict(sizes(at))}  # type: ignore[arg-type]
    wanted = (BASELINE, *at.methods) if at.methods else tuple(OWN_ROWS_METHODS)
    return Plan(
        task=task,
        methods=OWN_ROWS_METHODS,
        methods_wanted=tuple(name for name in wanted if at.bias < 1 or name not in BALANCED),
        backbones=({"pictures": at.fine_tuning.network, "shapes": SHAPES_NETWORK}.get(task, "small-bn"),),
        seeds=at.seeds,
        tuning_seeds=TUNING_SEEDS,
        settings=partial(settings, task, at),
        data=json.loads(json.dumps(described)),
    )


def build_task(job: Job, *, arguments: AtBias) -> Task:
    """The task of a job."""
    seed = job.settings.seed
    if job.task == "colour":
        return on_own_rows(biased_colour.build(seed=seed, bias=arguments.bias, keep_colours=True, every_colour=True))
    if job.task == "shapes":
        return on_own_rows(tinted_shapes.build(seed=seed, bias=arguments.bias))
    if job.task in TASK_SETS:
        options = {"bias": arguments.bias, "keep_hair": True, "every_hair": True}
        faces = cartoon_faces.build(seed=seed, train=job.task, cache=arguments.cache, **options)
        tests = {name: faces.tests[name] for name in ("within", "unbiased")}
        return on_own_rows(replace(faces, tests=tests))
    given = {name: value for name, value in asdict(arguments.pictures).items() if value is not None}
    built = pictures.build(
        seed=seed,
        cache=arguments.cache,
        bias=arguments.bias,
        sizes=sizes(arguments),
        **given,  # type: ignore[arg-type]
    )
    return on_own_rows(built)


def curves(made: Mapping[float, list[Record]]) -> dict[str, list[tuple[float, float, float]]]:
    """By row: bias, mean accuracy on unbiased rows, half a 95 % interval."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for bias, records in sorted(made.items()):
        for row in dict.fromkeys(record["key"]["row"] for record in records):
            runs = [list(record["accuracy"].values())[-1] for record in records if record["key"]["row"] == row]
            mean = estimate(runs)
            found.setdefault(row, []).append((bias, mean.mean, float(np.nan_to_num(mean.half_width))))
    return found


if __name__ == "__main__":
    main()
