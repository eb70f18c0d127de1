"""How the library's defaults were chosen: variants of the default, on tuning seeds and validation rows.

    python benchmarks/choose_defaults.py --backbones small-bn small-gn
    python benchmarks/choose_defaults.py --data PATH.parquet --class-column label --nuisance-column style --image-size 64 \\
        --network purifybench.pretrained:efficientnet_lite0 --variants "plain" "upper bound" default

Every variant trains on the two embedded digit tasks of `benchmarks/digits.py`, on the three cartoon face sets of
`benchmarks/fer.py` with a bias of 0.95, and on the pictures of `benchmarks/pictures.py`, on tuning seeds, and is judged by
validation rows: clean ones, and such of the shifted distribution. The test sets are not read, and no test digit, test person or
test picture is among these rows. Numbers of auxiliary rows are those beside 64 task rows; with fewer of these there are fewer
of them, in proportion.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import datasets
import pictures
import tyro
from accelerate import PartialState
from purifybench import tables
from purifybench.arguments import refuse_unknown
from purifybench.backbones import BACKBONES
from purifybench.faces.sets import TASK_SETS
from purifybench.former_names import with_present_names
from purifybench.frontier import TASK_ROWS, forms, in_proportion
from purifybench.jobs import Job, run_jobs
from purifybench.methods import METHODS, PUBLISHED_CRITIC, Method
from purifybench.methods.purified import BATCH_SIZE, Purified
from purifybench.picture_options import FineTuning, Pictures, Rows
from purifybench.report import estimate
from purifybench.results import ResultsStore
from purifybench.tasks import TASKS, Task, options_for
from purifybench.training import Settings
from torch import nn

from wdpurify import Critic, SpectralClipping, WeightClipping

#: By task: the seeds and the steps of its runs. A task of cartoon faces is named by its set; pictures have steps of their own.
TUNING_SEEDS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("colour", "photo", "pictures"), (1001, 1002, 1003, 1004)),
    **dict.fromkeys(TASK_SETS, (1001, 1002, 1003)),
}
STEPS: Mapping[str, int] = {"colour": 400, "photo": 400, **dict.fromkeys(TASK_SETS, 500)}
#: Of the colour task, the faces and the pictures.
BIAS = 0.95


def variants(task_rows: int = TASK_ROWS) -> Mapping[str, Callable[..., Method]]:
    """What is compared, its auxiliary rows in proportion to the task's.

    Args:
        task_rows: task rows per step.
    """
    usual = in_proportion(BATCH_SIZE, task_rows)
    default = partial(Purified, batch_size=usual)
    return {
        "plain": METHODS["plain"],
        "upper bound": METHODS["upper bound"],
        "default": default,
        **forms(task_rows),
        **{
            f"strength {strength}, fade {fade}, {rows} rows": partial(
                Purified, strength=strength, fade=fade, batch_size=in_proportion(rows, task_rows)
            )
            for strength, fade, rows in (
                (1.0, 0.4, 21),
                (0.7, 0.4, 21),
                (0.5, 0.4, 21),
                (0.5, 0.4, 32),
                (0.5, 0.2, 21),
                (0.5, 0.0, 32),
                (0.25, 0.2, 32),
            )
        },
        **{f"keep {keep}": partial(default, keep=keep) for keep in (0.0, 0.7, 1.0)},
        "1 critic step": partial(default, critic_steps=1),
        "3 critic steps": partial(default, critic_steps=3),
        "statistics updated": partial(default, update_statistics=True),
        "5 critic steps": partial(default, critic_steps=5),
        "critic learning rate 1e-3": partial(default, critic_lr=1e-3),
        "critic 512-256-10": partial(default, critic=PUBLISHED_CRITIC),
        "critic 128-64, ReLU": partial(default, critic=partial(Critic, activation=nn.ReLU)),
        "spectral clipping": partial(default, constraint=SpectralClipping()),
        "weight clipping": partial(default, constraint=WeightClipping(0.1)),
        "one group": partial(default, fixed=True),
        "one-sided, one group": partial(METHODS["wdpurify, one-sided, balanced"], batch_size=usual),
    }


@dataclass(frozen=True)
class Arguments:
    """Variants of the default.

    Attributes:
        pictures: which pictures the task of that name has; cartoon faces by default.
        rows: rows of each split of the pictures.
        fine_tuning: network and training of the pictures.
        backbones: names of networks, of the other tasks.
        variants: names of variants; all by default.
        tasks: names of tasks, colour, photo, sets of faces or pictures; all by default, pictures alone with `--data`.
        steps: optimiser steps per run on pictures; 500 for the cartoon faces, 200 for data of your own by default.
        cache: folder for drawn faces.
        workers: runs side by side on a CPU.
        out: folder for results.
        resume: keep what is there of these runs, such as after a kill; otherwise they are made anew.
    """

    pictures: tyro.conf.OmitArgPrefixes[Pictures] = field(default_factory=Pictures)
    rows: tyro.conf.OmitArgPrefixes[Rows] = field(default_factory=Rows)
    fine_tuning: tyro.conf.OmitArgPrefixes[FineTuning] = field(default_factory=FineTuning)
    backbones: tuple[str, ...] = ("small-bn", "small-gn")
    variants: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    steps: int | None = None
    cache: Path = Path("results/faces-cache")
    workers: int = os.cpu_count() or 1
    out: Path = Path("results/choose_defaults")
    resume: bool = False


def task_names(arguments: Arguments) -> tuple[str, ...]:
    """The tasks to run."""
    return arguments.tasks or (("pictures",) if arguments.pictures.data else tuple(TUNING_SEEDS))


def as_pictures(arguments: Arguments) -> pictures.Arguments:
    """The part of the arguments that the picture benchmark has too."""
    shared = {name: getattr(arguments, name) for name in ("pictures", "rows", "fine_tuning", "steps", "workers", "cache")}
    return pictures.Arguments(**shared, seeds=TUNING_SEEDS["pictures"], bias=BIAS)


def build_task(job: Job, *, arguments: Arguments) -> Task:
    """The task of a job."""
    if job.task == "pictures":
        return pictures.build_task(job, arguments=as_pictures(arguments))
    builder = TASKS[job.task]
    return builder(seed=job.settings.seed, **options_for(builder, {"cache": arguments.cache, "bias": BIAS}))


def jobs_of(task: str, variant: str, backbone: str, arguments: Arguments) -> list[Job]:
    """The runs of a variant on a task, one per tuning seed."""
    seeds = TUNING_SEEDS[task]
    if task == "pictures":
        plan = pictures.plan(as_pictures(arguments))
        return [Job(task, variant, plan.settings(backbone, seed), test=False, data=plan.data) for seed in seeds]
    settings = [Settings(backbone=backbone, steps=STEPS[task], seed=seed) for seed in seeds]
    return [Job(task, variant, each, test=False) for each in settings]


def check(arguments: Arguments) -> None:
    """Say what is wrong with the arguments before anything runs."""
    refuse_unknown("backbones", arguments.backbones, BACKBONES)
    refuse_unknown("variants", arguments.variants, variants())
    refuse_unknown("tasks", arguments.tasks, TUNING_SEEDS)
    pictures.check(as_pictures(arguments))


def prepare(arguments: Arguments) -> None:
    """Draw what the runs share, which then only read it."""
    for task in task_names(arguments):
        if task == "pictures":
            pictures.prepare(as_pictures(arguments))
        for seed in TUNING_SEEDS[task] if task in TASK_SETS else ():
            TASKS[task](seed=seed, cache=arguments.cache)


def main() -> None:
    """Run every variant and print a table per network."""
    arguments = with_present_names(tyro.cli(Arguments, description=__doc__))
    datasets.disable_progress_bars()
    check(arguments)
    store = ResultsStore(arguments.out / "results.jsonl")
    state = PartialState()
    with state.main_process_first():
        prepare(arguments)
    others = tuple(task for task in task_names(arguments) if task != "pictures")
    planned = [(backbone, others, variants()) for backbone in arguments.backbones if others]
    if "pictures" in task_names(arguments):
        training = arguments.fine_tuning
        planned.append((training.network, ("pictures",), variants(training.batch_size)))
    for backbone, tasks, methods in planned:
        jobs = {
            (variant, task): jobs_of(task, variant, backbone, arguments)
            for variant in arguments.variants or methods
            for task in tasks
        }
        if not arguments.resume and state.is_main_process:
            store.forget(job.key() for some in jobs.values() for job in some)
        state.wait_for_everyone()
        for task in tasks:
            every = [job for (_, of_task), some in jobs.items() for job in some if of_task == task]
            every.sort(key=lambda job: job.settings.seed)  # a task is built once per seed
            title = f"{task} ({backbone})"
            builder = partial(build_task, arguments=arguments)
            run_jobs(every, builder, store, workers=arguments.workers, title=title, methods=methods)
        if state.is_main_process:
            report(backbone, tasks, jobs, store)


def report(backbone: str, tasks: Sequence[str], jobs: Mapping[tuple[str, str], list[Job]], store: ResultsStore) -> None:
    """Print and keep the accuracy on validation rows, clean and shifted, per variant and task."""
    rows = [["variant", *(f"{task}, {part}" for task in tasks for part in ("clean", "shifted"))]]
    for variant in dict.fromkeys(variant for variant, _ in jobs):
        cells = [variant]
        for task in tasks:
            records = store.found(job.key() for job in jobs[variant, task])
            cells += [str(estimate([record["accuracy"][part] for record in records])) for part in ("validation", "oracle")]
        rows.append(cells)
    title = f"{backbone}, accuracy on validation rows of tuning seeds in %"
    name = "-".join(["pictures"] * ("pictures" in tasks) + [backbone.replace(":", ".")])
    tables.show(title, rows, store.path.parent / f"{name}.md", width=190)


if __name__ == "__main__":
    main()
