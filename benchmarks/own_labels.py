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

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from purifybench import figures
from purifybench.command import Comparison, read, refuse_wrong
from purifybench.faces.sets import TASK_SETS
from purifybench.jobs import Job, Plan
from purifybench.methods import OWN_ROWS_METHODS
from purifybench.picture_options import PictureOptions
from purifybench.report import summarise
from purifybench.results import Record, write_accuracies
from purifybench.tasks import Task, biased_colour, cartoon_faces, on_own_rows, tinted_shapes
from purifybench.training import Settings

#: Seeds that choose the options of tuned methods; no reported seed takes part.
TUNING_SEEDS = (1001, 1002)
TASKS = ("colour", *TASK_SETS, "pictures", "shapes")
#: Refused at a bias of 1, where each class has one nuisance alone, so that nothing tells them apart.
BALANCED = frozenset(name for name, make in OWN_ROWS_METHODS.items() if getattr(make, "keywords", {}).get("balance"))
#: Of the tinted shapes; a network whose features a pull can shrink to a point.
SHAPES_NETWORK = "small-pool"


@dataclass(frozen=True)
class Arguments(PictureOptions, Comparison):
    """Labels on your own rows.

    The shapes have the training of the pictures and small-pool, biased colour and the sets of faces have small-bn and SGD.

    Attributes:
        tasks: colour; the sets of cartoon faces, whose hair colour goes with the expression; pictures; shapes. All by default,
            pictures alone with `--data`.
        biases: shares of the training rows of a class that have its nuisance; several make a plot.
    """

    tasks: tuple[str, ...] = ()
    biases: tuple[float, ...] = (0.95,)
    out: Path = Path("results/own_labels")


def main() -> None:
    """Tune what is to be tuned, run everything, report."""
    arguments = read(Arguments, __doc__)
    datasets.disable_progress_bars()
    known = {"tasks": TASKS, "methods": OWN_ROWS_METHODS}
    refuse_wrong(arguments, known=known, filled=["seeds", "biases"], least={"workers": 1}, shares=["biases"])
    arguments.check_pictures()
    every: list[Record] = []
    for task in arguments.tasks or (("pictures",) if arguments.pictures.data else TASKS):
        made: dict[float, list[Record]] = {}
        for bias in arguments.biases:
            planned = plan(task, bias, arguments)
            made[bias] = arguments.records([planned], build_task, title=f"{task}, bias {bias}")
            every += made[bias]
            if PartialState().is_main_process:
                arguments.report(f"{task}, bias {bias}", made[bias], planned, arguments.out / f"{task}-{bias}", bias=bias)
        if PartialState().is_main_process and len(made) > 1:
            rows = {bias: summarise(records) for bias, records in sorted(made.items())}
            along = "share of a class's training rows that have its nuisance"
            figures.accuracy_over(rows, along, task, arguments.out / f"{task}-bias.png")
    if PartialState().is_main_process:
        write_accuracies(every, arguments.out / "accuracy.csv")


def plan(task: str, bias: float, arguments: Arguments) -> Plan:
    """The runs of a task."""
    described: dict[str, Any] = {"bias": bias, "own rows": True}
    described |= {"test": "every nuisance"} if task == "colour" or task in TASK_SETS else {}
    described |= arguments.picture_data() if task == "pictures" else {}
    wanted = arguments.wanted(OWN_ROWS_METHODS).items()
    methods = {name: make for name, make in wanted if bias < 1 or name not in BALANCED}
    networks = ({"pictures": arguments.fine_tuning.network, "shapes": SHAPES_NETWORK}.get(task, "small-bn"),)
    settings = arguments.picture_settings() if task in ("pictures", "shapes") else Settings()
    if task != "pictures":
        settings = replace(settings, steps=arguments.steps or (500 if task in TASK_SETS else 400))
    return Plan(task, methods, networks, arguments.seeds, settings, tuning_seeds=TUNING_SEEDS, data=described)


def build_task(job: Job, *, arguments: Arguments) -> Task:
    """The task of a job."""
    drawn = {"seed": job.settings.seed, "bias": job.data["bias"]}
    if job.task == "colour":
        return on_own_rows(biased_colour.build(**drawn, keep_colours=True, every_colour=True))
    if job.task == "shapes":
        return on_own_rows(tinted_shapes.build(**drawn))
    if job.task == "pictures":
        return on_own_rows(arguments.picture_task(**drawn))
    faces = cartoon_faces.build(train=job.task, cache=arguments.cache, keep_hair=True, every_hair=True, **drawn)
    return on_own_rows(replace(faces, tests={name: faces.tests[name] for name in ("within", "unbiased")}))


if __name__ == "__main__":
    main()
