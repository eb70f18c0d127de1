"""The main job: what purifying gains on handwritten digits, beside its controls and a tuned opponent.

    python benchmarks/digits.py                 embedded data, all methods, about ten minutes on two cores
    accelerate launch benchmarks/digits.py      the same, on whatever Accelerate finds
    python benchmarks/digits.py --tasks colour  one of the embedded tasks, or one of your own in `TASKS`
    python benchmarks/digits.py --train ylecun/mnist --aux ufldl-stanford/svhn:cropped_digits --test Mike0307/MNIST-M

Writes a table per task and the paper's Table II, `results.jsonl` (one line per run), `report.json`, `report.md` and figures to
`--out`.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro
from accelerate import PartialState
from purifybench import paper_tables, tables
from purifybench.backbones import BACKBONES
from purifybench.command import Comparison, read, refuse_wrong
from purifybench.jobs import Job, Plan
from purifybench.methods import METHODS
from purifybench.results import Record, grouped
from purifybench.tasks import TASKS, Task, built, needed_options
from purifybench.tasks.real_digits import RealData
from purifybench.training import Settings

#: Seeds that choose the options of tuned methods; no reported seed takes part.
TUNING_SEEDS = (1001, 1002, 1003, 1004)


@dataclass(frozen=True)
class Arguments(Comparison):
    """What purifying gains on handwritten digits.

    Attributes:
        real: data of your own; the embedded digits otherwise.
        tasks: names of tasks; by default colour and photo, or real where --train is given.
        backbones: names of networks.
        steps: optimiser steps per run; 400 for embedded, 1,500 for real data by default.
        batch_size: task rows per step; 64 for embedded, 128 for real data by default.
        image_size: pixels; 16 for embedded, 32 for real data by default.
        bias: share of training digits whose colour goes with the digit, in the colour task.
    """

    real: tyro.conf.OmitArgPrefixes[RealData] = field(default_factory=RealData)
    tasks: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ("small-bn",)
    steps: int | None = None
    batch_size: int | None = None
    image_size: int | None = None
    bias: float = 0.95
    out: Path = Path("results/digits")


def main() -> None:
    """Tune what is to be tuned, run everything, report."""
    arguments = read(Arguments, __doc__)
    check(arguments)
    made: list[Record] = []
    usual = ("real",) if arguments.real.train else ("colour", "photo")
    for task in dict.fromkeys(arguments.tasks or usual):
        planned = plan(task, arguments)
        found = arguments.records([planned], build_task, title=task)
        made += found
        for backbone, records in grouped(found, "backbone").items() if PartialState().is_main_process else ():
            title = f"{task} ({backbone}, {records[0]['key']['settings']['steps']} steps)"
            arguments.report(title, records, planned, arguments.out / f"{task}-{backbone}", width=110)
    if PartialState().is_main_process:
        paper_tables.write(made, arguments.out, tables.console(110), wanted=("2",))


def check(arguments: Arguments) -> None:
    """Say what is wrong with the arguments before anything runs."""
    options = task_options(arguments)
    tasks = [name for name in TASKS if options.keys() >= set(needed_options(TASKS[name]))]
    refuse_wrong(
        arguments,
        known={"tasks": tasks, "backbones": BACKBONES, "methods": METHODS},
        filled=["backbones", "seeds"],
        least=dict.fromkeys(("steps", "batch_size", "image_size", "workers"), 1),
        shares=["bias"],
    )
    real = arguments.real
    if real.train and not (real.aux and real.test):
        raise SystemExit("--train needs --aux (auxiliary images) and --test (a shifted test set)")
    if not real.train and (real.aux or real.test):
        raise SystemExit("--aux and --test need --train (task data)")
    if "real" in arguments.tasks and not real.train:
        raise SystemExit("--tasks real needs --train (task data)")


def build_task(job: Job, *, arguments: Arguments) -> Task:
    """The task of a job."""
    return built(job.task, job.settings.seed, task_options(arguments))


def task_options(arguments: Arguments) -> dict[str, Any]:
    """All that a task's builder may ask for."""
    return {"bias": arguments.bias, "image_size": arguments.image_size, "real": arguments.real}


def plan(task: str, arguments: Arguments) -> Plan:
    """The runs of a task."""
    data = {"bias": arguments.bias, "image_size": arguments.image_size, "real": asdict(arguments.real)}
    steps, batch_size = (1500, 128) if task == "real" else (400, 64)
    settings = Settings(steps=arguments.steps or steps, batch_size=arguments.batch_size or batch_size)
    methods = arguments.wanted(METHODS)
    return Plan(task, methods, arguments.backbones, arguments.seeds, settings, tuning_seeds=TUNING_SEEDS, data=data)


if __name__ == "__main__":
    main()
