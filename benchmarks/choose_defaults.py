"""How the library's defaults were chosen: variants of the default, on tuning seeds and validation rows.

    python benchmarks/choose_defaults.py --backbones small-bn small-gn

Every variant trains on the two embedded digit tasks of `benchmarks/digits.py`, on tuning seeds, and is judged by validation
rows: clean ones, and such of the shifted distribution. The test sets are not read, and
no test digit is among these rows.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from accelerate import PartialState
from purifybench.jobs import Job, run_jobs
from purifybench.methods import METHODS, PUBLISHED_CRITIC, Method
from purifybench.methods.purified import Purified
from purifybench.report import estimate
from purifybench.results import ResultsStore
from purifybench.tasks import Task, biased_colour, photo
from purifybench.training import Settings
from rich.console import Console
from rich.table import Table
from torch import nn

from wdpurify import Critic, SpectralClipping, WeightClipping

TUNING_SEEDS = (1001, 1002, 1003, 1004)

VARIANTS: Mapping[str, Callable[..., Method]] = {
    "goal 1 only": METHODS["goal 1 only"],
    "upper bound": METHODS["upper bound"],
    "default": Purified,
    "strength 1": partial(Purified, strength=1.0),
    "strength 2": partial(Purified, strength=2.0),
    "strength 8": partial(Purified, strength=8.0),
    "fade 0.2": partial(Purified, fade=0.2),
    "fade 0.05": partial(Purified, fade=0.05),
    "strength 1, no fade": partial(Purified, strength=1.0, fade=0.0),
    "strength 2, no fade": partial(Purified, strength=2.0, fade=0.0),
    "strength 4, no fade": partial(Purified, strength=4.0, fade=0.0),
    "every step": partial(Purified, every=1),
    "every step, strength 1.3": partial(Purified, every=1, strength=1.3),
    "every sixth step": partial(Purified, every=6),
    "1 critic step": partial(Purified, critic_steps=1),
    "5 critic steps": partial(Purified, critic_steps=5),
    "critic learning rate 1e-3": partial(Purified, critic_lr=1e-3),
    "critic 512-256-10": partial(Purified, critic=PUBLISHED_CRITIC),
    "critic 128-64, ReLU": partial(Purified, critic=partial(Critic, activation=nn.ReLU)),
    "32 auxiliary rows": partial(Purified, batch_size=32),
    "128 auxiliary rows": partial(Purified, batch_size=128),
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
        variants: which of them; all by default.
        steps: optimiser steps per run.
        workers: runs side by side on a CPU.
        out: folder for results.
        resume: go on where a killed run stopped.
    """

    backbones: tuple[str, ...] = ("small-bn", "small-gn")
    variants: tuple[str, ...] = ()
    steps: int = 400
    workers: int = os.cpu_count() or 1
    out: Path = Path("results/choose_defaults")
    resume: bool = False


def build_task(name: str, seed: int) -> Task:
    """One of the two embedded tasks."""
    return {"colour": biased_colour.build, "photo": photo.build}[name](seed=seed)


def main() -> None:
    """Run every variant and print a table per backbone."""
    arguments = tyro.cli(Arguments, description=__doc__)
    store = ResultsStore(arguments.out / "results.jsonl")
    if not arguments.resume and PartialState().is_main_process:
        store.clear()
    PartialState().wait_for_everyone()
    for backbone in arguments.backbones:
        jobs = {
            (variant, task): [
                Job(task, variant, Settings(backbone=backbone, steps=arguments.steps, seed=seed), test=False)
                for seed in TUNING_SEEDS
            ]
            for variant in arguments.variants or VARIANTS
            for task in ("colour", "photo")
        }
        every = [job for some in jobs.values() for job in some]
        run_jobs(every, build_task, store, data={}, workers=arguments.workers, title=backbone, methods=VARIANTS)
        if PartialState().is_main_process:
            report(backbone, jobs, store)


def report(backbone: str, jobs: Mapping[tuple[str, str], list[Job]], store: ResultsStore) -> None:
    """Accuracy on validation rows, clean and shifted, per variant and task."""
    table = Table(title=f"{backbone}, {len(TUNING_SEEDS)} tuning seeds, accuracy on validation rows in %")
    table.add_column("variant")
    tasks = list(dict.fromkeys(task for _, task in jobs))
    for task in tasks:
        table.add_column(f"{task}, clean", justify="right")
        table.add_column(f"{task}, shifted", justify="right")
    for variant in dict.fromkeys(variant for variant, _ in jobs):
        cells = []
        for task in tasks:
            records = [record for job in jobs[variant, task] if (record := store.find(job.key({}))) is not None]
            cells += [str(estimate([record["accuracy"][rows] for record in records])) for rows in ("validation", "oracle")]
        table.add_row(variant, *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
