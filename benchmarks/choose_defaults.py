"""How the library's defaults were chosen: variants of the default, on tuning seeds and validation rows.

    python benchmarks/choose_defaults.py --backbones small-bn small-gn

Every variant trains on the two embedded digit tasks of `benchmarks/digits.py` and on the three cartoon face sets of
`benchmarks/fer.py` with a bias of 0.95, on tuning seeds, and is judged by validation rows: clean ones, and such of the shifted
distribution. The test sets are not read, and no test digit or test person is among these rows.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from accelerate import PartialState
from purifybench import cross_table
from purifybench.arguments import refuse_unknown
from purifybench.backbones import BACKBONES
from purifybench.faces.sets import TASK_SETS
from purifybench.frontier import forms
from purifybench.jobs import Job, run_jobs
from purifybench.methods import METHODS, PUBLISHED_CRITIC, Method
from purifybench.methods.purified import Purified
from purifybench.report import estimate
from purifybench.results import ResultsStore
from purifybench.tasks import TASKS, Task, options_for
from purifybench.training import Settings
from rich.console import Console
from torch import nn

from wdpurify import Critic, SpectralClipping, WeightClipping

#: By task: the seeds and the steps of its runs. A task of cartoon faces is named by its set.
TUNING_SEEDS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("colour", "photo"), (1001, 1002, 1003, 1004)),
    **dict.fromkeys(TASK_SETS, (1001, 1002, 1003)),
}
STEPS: Mapping[str, int] = {"colour": 400, "photo": 400, **dict.fromkeys(TASK_SETS, 500)}
#: Of the colour task and of the faces.
BIAS = 0.95

VARIANTS: Mapping[str, Callable[..., Method]] = {
    "goal 1 only": METHODS["goal 1 only"],
    "upper bound": METHODS["upper bound"],
    "default": Purified,
    **forms(),
    **{
        f"strength {strength}, fade {fade}, {rows} rows": partial(Purified, strength=strength, fade=fade, batch_size=rows)
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
    **{f"keep {keep}": partial(Purified, keep=keep) for keep in (0.0, 0.7, 1.0)},
    "1 critic step": partial(Purified, critic_steps=1),
    "3 critic steps": partial(Purified, critic_steps=3),
    "statistics updated": partial(Purified, update_statistics=True),
    "5 critic steps": partial(Purified, critic_steps=5),
    "critic learning rate 1e-3": partial(Purified, critic_lr=1e-3),
    "critic 512-256-10": partial(Purified, critic=PUBLISHED_CRITIC),
    "critic 128-64, ReLU": partial(Purified, critic=partial(Critic, activation=nn.ReLU)),
    "spectral clipping": partial(Purified, constraint=SpectralClipping()),
    "weight clipping": partial(Purified, constraint=WeightClipping(0.1)),
    "one group": partial(Purified, fixed=True),
    "one-sided, one group": METHODS["PL one-sided, balanced"],
}


@dataclass(frozen=True)
class Arguments:
    """Variants of the default.

    Attributes:
        backbones: names of networks.
        variants: names of variants; all by default.
        tasks: names of tasks, colour, photo or sets of faces; all by default.
        cache: folder for drawn faces.
        workers: runs side by side on a CPU.
        out: folder for results.
        resume: keep what is there of these runs, such as after a kill; otherwise they are made anew.
    """

    backbones: tuple[str, ...] = ("small-bn", "small-gn")
    variants: tuple[str, ...] = ()
    tasks: tuple[str, ...] = tuple(TUNING_SEEDS)
    cache: Path = Path("results/faces-cache")
    workers: int = os.cpu_count() or 1
    out: Path = Path("results/choose_defaults")
    resume: bool = False


def build_task(job: Job, *, cache: Path) -> Task:
    """The task of a job."""
    builder = TASKS[job.task]
    return builder(seed=job.settings.seed, **options_for(builder, {"cache": cache, "bias": BIAS}))


def main() -> None:
    """Run every variant and print a table per backbone."""
    arguments = tyro.cli(Arguments, description=__doc__)
    refuse_unknown("backbones", arguments.backbones, BACKBONES)
    refuse_unknown("variants", arguments.variants, VARIANTS)
    refuse_unknown("tasks", arguments.tasks, TUNING_SEEDS)
    store = ResultsStore(arguments.out / "results.jsonl")
    state = PartialState()
    builder = partial(build_task, cache=arguments.cache)
    with state.main_process_first():  # runs side by side only read the cache
        for task in arguments.tasks:
            for seed in TUNING_SEEDS[task] if task in TASK_SETS else ():
                TASKS[task](seed=seed, cache=arguments.cache)
    for backbone in arguments.backbones:
        jobs = {
            (variant, task): [
                Job(task, variant, Settings(backbone=backbone, steps=STEPS[task], seed=seed), test=False)
                for seed in TUNING_SEEDS[task]
            ]
            for variant in arguments.variants or VARIANTS
            for task in arguments.tasks
        }
        if not arguments.resume and state.is_main_process:
            store.forget(job.key() for some in jobs.values() for job in some)
        state.wait_for_everyone()
        for task in arguments.tasks:
            every = [job for (_, of_task), some in jobs.items() for job in some if of_task == task]
            every.sort(key=lambda job: job.settings.seed)  # a task is built once per seed
            title = f"{task} ({backbone})"
            run_jobs(every, builder, store, workers=arguments.workers, title=title, methods=VARIANTS)
        if state.is_main_process:
            report(backbone, jobs, store)


def report(backbone: str, jobs: Mapping[tuple[str, str], list[Job]], store: ResultsStore) -> None:
    """Print and keep the accuracy on validation rows, clean and shifted, per variant and task."""
    tasks = list(dict.fromkeys(task for _, task in jobs))
    rows = [["variant", *(f"{task}, {part}" for task in tasks for part in ("clean", "shifted"))]]
    for variant in dict.fromkeys(variant for variant, _ in jobs):
        cells = [variant]
        for task in tasks:
            records = store.found(job.key() for job in jobs[variant, task])
            cells += [str(estimate([record["accuracy"][part] for record in records])) for part in ("validation", "oracle")]
        rows.append(cells)
    title = f"{backbone}, accuracy on validation rows of tuning seeds in %"
    Console(width=190).print(cross_table.upright(title, rows))
    (store.path.parent / f"{backbone}.md").write_text(cross_table.markdown(rows) + "\n")


if __name__ == "__main__":
    main()
