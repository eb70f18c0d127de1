"""What purifying gains, in less than three minutes on two cores: four rows on two small tasks, without a download.

    python benchmarks/demo.py                   digits on coloured ground, then cartoon faces
    python benchmarks/demo.py --tasks colour    the digits alone

Fewer seeds and steps than on the pages of the benchmarks. With one tuning seed, gradient reversal may come out far better or
worse than there. `digits.py` and `fer.py` make the full tables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
from purifybench import report, tables
from purifybench.command import Runs, read, refuse_wrong
from purifybench.jobs import Job, Plan
from purifybench.methods import METHODS
from purifybench.results import Record
from purifybench.tasks import Task, biased_colour, cartoon_faces, options_for
from purifybench.training import Settings
from rich.console import Console
from rich.table import Table

#: The rows, and what they are called here.
ROWS = {
    report.BASELINE: "plain training",
    "gradient reversal": "gradient reversal, tuned",
    report.DEFAULT: "wdpurify",
    report.UPPER_BOUND: "trained without the bias",
}


@dataclass(frozen=True)
class Bench:
    """One task of the demo.

    Attributes:
        title: above its table.
        tests: what its test sets are called, by their names in the task.
        build: makes the task from a seed and, where it draws faces, a folder for them.
        seeds, tuning_seeds: one run of each method each; tuning reads validation rows alone.
        steps: optimiser steps per run.
    """

    title: str
    tests: Mapping[str, str]
    build: Callable[..., Task]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    steps: int


BENCHES: Mapping[str, Bench] = {
    "colour": Bench(
        "Which digit? In 95 % of the training rows the colour of the ground gives the digit away.",
        {"clean": "colour as in training %", "shifted": "colour at random %"},
        biased_colour.build,
        seeds=(0, 1, 2),
        tuning_seeds=(1001,),
        steps=300,
    ),
    "faces": Bench(
        "Which expression? In 95 % of the training faces the hair colour gives the expression away.",
        {"within": "hair as in training %", "unbiased": "hair at random %"},
        partial(cartoon_faces.build, train="mmi-like", other_sets=False),
        seeds=(0,),
        tuning_seeds=(0,),  # to draw a second set takes long; tuning reads validation rows alone
        steps=250,
    ),
}


@dataclass(frozen=True)
class Arguments(Runs):
    """What purifying gains, in less than three minutes on two cores.

    Attributes:
        tasks: names of tasks; both by default.
        steps: optimiser steps per run; by default those of the task.
        cache: folder for drawn faces.
    """

    tasks: tuple[str, ...] = tuple(BENCHES)
    steps: int | None = None
    cache: Path = Path("results/faces-cache")
    out: Path = Path("results/demo")


def main() -> None:
    """Run one task after the other; its table grows as runs end."""
    arguments = read(Arguments, __doc__)
    refuse_wrong(arguments, known={"tasks": BENCHES}, filled=["tasks"], least={"steps": 1, "workers": 1})
    datasets.disable_progress_bars()  # drawing has its own
    console = Console()
    for name in arguments.tasks:
        bench = BENCHES[name]
        if name == "faces":
            for seed in {*bench.seeds, *bench.tuning_seeds}:  # drawn once, on all cores
                bench.build(seed=seed, cache=arguments.cache)
        found = arguments.records([plan(name, arguments)], build_task, title=name, above=partial(table, bench))
        console.print(table(bench, found))
    console.print("The weight of gradient reversal is chosen on one seed here, so that its row depends on chance.")
    console.print("All methods: python benchmarks/digits.py. All sets of faces: accelerate launch benchmarks/fer.py")


def plan(name: str, arguments: Arguments) -> Plan:
    """The runs of a task."""
    bench = BENCHES[name]
    return Plan(
        task=name,
        methods={method: METHODS[method] for method in METHODS if method in ROWS},
        backbones=("small-bn",),
        seeds=bench.seeds,
        settings=Settings(steps=arguments.steps or bench.steps),
        tuning_seeds=bench.tuning_seeds,
        chosen_by=("validation",),
    )


def build_task(job: Job, *, arguments: Arguments) -> Task:
    """The task of a job."""
    build = BENCHES[job.task].build
    return build(seed=job.settings.seed, **options_for(build, {"cache": arguments.cache}))


def table(bench: Bench, records: Sequence[Record]) -> Table:
    """The rows of a task that there are so far."""
    rows = {row.method: row for row in report.summarise(records)}
    lines = [["method", *bench.tests.values(), "gap recovered %"]]
    for method, name in ROWS.items():
        row = rows.get(method)
        name = f"{name} ({', '.join(row.notes)})" if row and row.notes else name
        accuracies = [str(row.accuracy[test]) if row else "..." for test in bench.tests]
        lines.append([name, *accuracies, str(row.recovered or "") if row else ""])
    seeds = len(bench.seeds)
    counted = "one seed" if seeds == 1 else f"mean ± half a 95 % interval over {seeds} seeds"
    return tables.upright(bench.title, lines, caption=f"{counted}, {bench.steps} steps per run", bold=ROWS[report.DEFAULT])


if __name__ == "__main__":
    main()
