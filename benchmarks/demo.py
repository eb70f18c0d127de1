"""What purifying gains, in less than three minutes on two cores: four rows on two small tasks, without a download.

    python benchmarks/demo.py                   digits on coloured ground, then cartoon faces
    python benchmarks/demo.py --tasks colour    the digits alone

Fewer seeds and steps than on the pages of the benchmarks. With one tuning seed, gradient reversal may come out far better or
worse than there. `digits.py` and `fer.py` make the full tables.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import tyro
from purifybench import report
from purifybench.command import refuse_wrong
from purifybench.jobs import Job, run_jobs
from purifybench.methods import METHODS
from purifybench.plan import Plan
from purifybench.results import ResultsStore
from purifybench.tasks import Task, biased_colour, cartoon_faces
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
TUNED = "gradient reversal"


@dataclass(frozen=True)
class Bench:
    """One task of the demo.

    Attributes:
        title: above its table.
        tests: what its test sets are called, by their names in the task.
        build: makes the task from a seed and a folder for drawn faces.
        seeds, tuning_seeds: one run of each method each; tuning reads validation rows alone.
        steps: optimiser steps per run.
    """

    title: str
    tests: Mapping[str, str]
    build: Callable[..., Task]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    steps: int


def coloured_digits(*, seed: int, cache: Path) -> Task:
    """Real handwriting on coloured ground; nothing is drawn, so that the folder plays no part."""
    return biased_colour.build(seed=seed)


def cartoon_people(*, seed: int, cache: Path) -> Task:
    """Expressions of one set of cartoon faces, whose hair colour goes with the expression."""
    return cartoon_faces.build(seed=seed, train="mmi-like", cache=cache, other_sets=False)


BENCHES: Mapping[str, Bench] = {
    "colour": Bench(
        "Which digit? In 95 % of the training rows the colour of the ground gives the digit away.",
        {"clean": "colour as in training %", "shifted": "colour at random %"},
        coloured_digits,
        seeds=(0, 1, 2),
        tuning_seeds=(1001,),
        steps=300,
    ),
    "faces": Bench(
        "Which expression? In 95 % of the training faces the hair colour gives the expression away.",
        {"within": "hair as in training %", "unbiased": "hair at random %"},
        cartoon_people,
        seeds=(0,),
        tuning_seeds=(0,),  # to draw a second set takes long; tuning reads validation rows alone
        steps=250,
    ),
}


@dataclass(frozen=True)
class Arguments:
    """What purifying gains, in less than three minutes on two cores.

    Attributes:
        tasks: names of tasks; both by default.
        steps: optimiser steps per run; by default those of the task.
        workers: runs side by side.
        cache: folder for drawn faces.
        out: folder for results.
    """

    tasks: tuple[str, ...] = tuple(BENCHES)
    steps: int | None = None
    workers: int = os.cpu_count() or 1
    cache: Path = Path("results/faces-cache")
    out: Path = Path("results/demo")


def main() -> None:
    """Run one task after the other; the table grows as runs end."""
    arguments = tyro.cli(Arguments, description=__doc__)
    refuse_wrong(arguments, known={"tasks": BENCHES}, filled=["tasks"], least={"steps": 1, "workers": 1})
    datasets.disable_progress_bars()  # drawing has its own
    console = Console()
    store = ResultsStore(arguments.out / "results.jsonl")
    for name in arguments.tasks:
        run(name, arguments, store)
    console.print("The weight of gradient reversal is chosen on one seed here, so that its row depends on chance.")
    console.print("All methods: python benchmarks/digits.py. All sets of faces: accelerate launch benchmarks/fer.py")


def run(name: str, arguments: Arguments, store: ResultsStore) -> None:
    """Make the runs of a task: first those without an option to tune, with the tuning behind them, then the tuned ones."""
    bench = BENCHES[name]
    builder = partial(build_task, cache=arguments.cache)
    if name == "faces":
        for seed in {*bench.seeds, *bench.tuning_seeds}:  # drawn once, on all cores
            bench.build(seed=seed, cache=arguments.cache)
    plan = Plan(
        task=name,
        methods=METHODS,
        methods_wanted=tuple(ROWS),
        backbones=("small-bn",),
        seeds=bench.seeds,
        tuning_seeds=bench.tuning_seeds,
        settings=lambda backbone, seed: Settings(backbone=backbone, steps=arguments.steps or bench.steps, seed=seed),
    )
    known = [job for job in plan.reported_jobs({}) if job.method != TUNED]
    tuning = list(plan.tuning_jobs())
    store.forget(job.key() for job in [*known, *tuning])
    make = partial(run_jobs, build_task=builder, store=store, workers=arguments.workers)
    make([*known, *tuning], title=f"{name}: three rows, and tuning", above=lambda: table(bench, known, store))
    chosen = {key: options for key, options in plan.chosen_options(store).items() if key[2] == "validation"}
    jobs = list(plan.reported_jobs(chosen))
    tuned = [job for job in jobs if job.method == TUNED]
    store.forget(job.key() for job in tuned)
    make(tuned, title=f"{name}: the tuned row", above=lambda: table(bench, jobs, store))


def build_task(job: Job, *, cache: Path) -> Task:
    """The task of a job."""
    return BENCHES[job.task].build(seed=job.settings.seed, cache=cache)


def table(bench: Bench, jobs: Sequence[Job], store: ResultsStore) -> Table:
    """The rows that there are so far."""
    rows = {row.method: row for row in report.summarise(store.found(job.key() for job in jobs))}
    found = Table(title=bench.title, caption=_caption(bench), min_width=80)
    found.add_column("method", no_wrap=True)
    for column in (*bench.tests.values(), "gap recovered %"):
        found.add_column(column, justify="right")
    for method, name in ROWS.items():
        row = rows.get(method)
        name = f"{name} ({', '.join(row.notes)})" if row and row.notes else name
        accuracies = [str(row.accuracy[test]) if row else "..." for test in bench.tests]
        recovered = str(row.recovered) if row and row.recovered else ""
        found.add_row(name, *accuracies, recovered, style="bold" if method == report.DEFAULT else None)
    return found


def _caption(bench: Bench) -> str:
    few = f"{bench.steps} steps per run"
    return f"one seed, {few}" if len(bench.seeds) == 1 else f"mean ± half a 95 % interval over {len(bench.seeds)} seeds, {few}"


if __name__ == "__main__":
    main()
