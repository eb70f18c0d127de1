"""The main job: what purifying gains on handwritten digits, beside its controls and a tuned opponent.

    python benchmarks/digits.py                 embedded data, all methods, about ten minutes on two cores
    accelerate launch benchmarks/digits.py      the same, on whatever Accelerate finds
    python benchmarks/digits.py --tasks colour  one of the embedded tasks, or one of your own in `TASKS`
    python benchmarks/digits.py --train ylecun/mnist --aux ufldl-stanford/svhn:cropped_digits --test Mike0307/MNIST-M

Writes a table per task and the paper's Table II, `results.jsonl` (one line per run), `report.json`, `report.md` and figures to
`--out`.
"""

import json
import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from accelerate import PartialState
from purifybench import paper_tables
from purifybench.arguments import refuse_below, refuse_empty, refuse_no_share, refuse_unknown
from purifybench.backbones import BACKBONES
from purifybench.former_names import with_present_names
from purifybench.jobs import Job
from purifybench.methods import METHODS
from purifybench.plan import Chosen, Plan, carry_out
from purifybench.report import BASELINE
from purifybench.results import Record, ResultsStore
from purifybench.task_report import write_task_report
from purifybench.tasks import TASKS, Task, needed_options, options_for
from purifybench.training import Settings
from rich.console import Console

#: Seeds that choose the options of tuned methods; no reported seed takes part.
TUNING_SEEDS = (1001, 1002, 1003, 1004)


@dataclass(frozen=True)
class RealData:
    """Data to use in place of the embedded digits: hub ids (`id` or `id:config`) or local folders and parquet files.

    Attributes:
        train: task data with a train and a test split.
        test: shifted test sets; the last one is the shifted test of the table.
        aux: auxiliary images.
        blend_photos: the auxiliary images are photographs, to be blended with unseen training digits.
        image_column: name of the image column.
        label_column: name of the digit column.
        group_column: column of `aux` with the irrelevant label; by default the groups are train and aux.
        rows: training rows.
    """

    train: str | None = None
    test: tuple[str, ...] = ()
    aux: str | None = None
    blend_photos: bool = False
    image_column: str = "image"
    label_column: str = "label"
    group_column: str | None = None
    rows: int = 20_000


@dataclass(frozen=True)
class Arguments:
    """What purifying gains on handwritten digits.

    Attributes:
        real: data of your own; the embedded digits otherwise.
        tasks: names of tasks; by default colour and photo, or real where --train is given.
        backbones: names of networks.
        methods: names of methods; all by default. Plain training is always among them.
        seeds: one run each.
        steps: optimiser steps per run; 400 for embedded, 1,500 for real data by default.
        batch_size: task rows per step; 64 for embedded, 128 for real data by default.
        image_size: pixels; 16 for embedded, 32 for real data by default.
        bias: share of training digits whose colour goes with the digit, in the colour task.
        workers: runs side by side on a CPU.
        out: folder for results.
        resume: keep what is there of these runs, such as after a kill; otherwise they are made anew.
    """

    real: tyro.conf.OmitArgPrefixes[RealData] = RealData()
    tasks: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ("small-bn",)
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int | None = None
    batch_size: int | None = None
    image_size: int | None = None
    bias: float = 0.95
    workers: int = os.cpu_count() or 1
    out: Path = Path("results/digits")
    resume: bool = False


def main() -> None:
    """Tune what is to be tuned, run everything, report."""
    arguments = with_present_names(tyro.cli(Arguments, description=__doc__))
    check(arguments)
    state = PartialState()
    console = Console(width=max(Console().width, 110))  # narrower than that, the table would be unreadable
    store = ResultsStore(arguments.out / "results.jsonl")
    made: list[Record] = []
    for task in task_names(arguments):
        planned = plan(task, arguments)
        builder = partial(build_task, arguments=arguments)
        jobs = carry_out([planned], builder, store, workers=arguments.workers, resume=arguments.resume, title=task)
        if state.is_main_process:
            found = store.found(job.key() for job in jobs)
            write_report(task, arguments, planned.chosen_options(store), found, console)
            made += found
    if state.is_main_process:
        paper_tables.write(made, arguments.out, console, wanted=("2",))


def check(arguments: Arguments) -> None:
    """Say what is wrong with the arguments before anything runs."""
    options = task_options(arguments)
    refuse_unknown("tasks", arguments.tasks, [name for name in TASKS if options.keys() >= set(needed_options(TASKS[name]))])
    refuse_unknown("backbones", arguments.backbones, BACKBONES)
    refuse_unknown("methods", arguments.methods, METHODS)
    for name in ("backbones", "seeds"):
        refuse_empty(name, getattr(arguments, name))
    for name in ("steps", "batch_size", "image_size", "workers"):
        refuse_below(name, getattr(arguments, name), 1)
    refuse_no_share("bias", arguments.bias)
    real = arguments.real
    if real.train and not (real.aux and real.test):
        raise SystemExit("--train needs --aux (auxiliary images) and --test (a shifted test set)")
    if not real.train and (real.aux or real.test):
        raise SystemExit("--aux and --test need --train (task data)")
    if "real" in arguments.tasks and not real.train:
        raise SystemExit("--tasks real needs --train (task data)")


def task_names(arguments: Arguments) -> list[str]:
    """The tasks to run, in the order of their tables."""
    usual = ("real",) if arguments.real.train else ("colour", "photo")
    return list(dict.fromkeys(arguments.tasks or usual))


def build_task(job: Job, *, arguments: Arguments) -> Task:
    """The task of a job."""
    builder = TASKS[job.task]
    return builder(seed=job.settings.seed, **options_for(builder, task_options(arguments)))


def task_options(arguments: Arguments) -> dict[str, Any]:
    """All that a task's builder may ask for."""
    return {"bias": arguments.bias, "image_size": arguments.image_size, **asdict(arguments.real)}


def describe_data(arguments: Arguments) -> dict[str, Any]:
    """What the data depend on beside task and seed, as plain values."""
    described = {"bias": arguments.bias, "image_size": arguments.image_size, "real": asdict(arguments.real)}
    return json.loads(json.dumps(described))


def settings(task: str, arguments: Arguments, backbone: str, seed: int) -> Settings:
    """The settings of one run."""
    real = task == "real"
    steps = arguments.steps or (1500 if real else 400)
    batch_size = arguments.batch_size or (128 if real else 64)
    return Settings(backbone=backbone, steps=steps, batch_size=batch_size, seed=seed)


def plan(task: str, arguments: Arguments) -> Plan:
    """The runs of a task."""
    return Plan(
        task=task,
        methods=METHODS,
        methods_wanted=(BASELINE, *arguments.methods) if arguments.methods else tuple(METHODS),
        backbones=arguments.backbones,
        seeds=arguments.seeds,
        tuning_seeds=TUNING_SEEDS,
        settings=partial(settings, task, arguments),
        data=describe_data(arguments),
    )


def write_report(task: str, arguments: Arguments, chosen: Chosen, made: list[Record], console: Console) -> None:
    """Print the table and write JSON, Markdown and figures."""
    for backbone in arguments.backbones:
        records = [record for record in made if record["key"]["settings"]["backbone"] == backbone]
        title = f"{task} ({backbone}, {records[0]['key']['settings']['steps']} steps)"
        write_task_report(title, records, chosen, asdict(arguments), arguments.out / f"{task}-{backbone}", console)


if __name__ == "__main__":
    main()
