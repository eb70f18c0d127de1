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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
from accelerate import PartialState
from purifybench import tables
from purifybench.backbones import BACKBONES
from purifybench.command import Runs, read, refuse_wrong
from purifybench.faces.sets import TASK_SETS
from purifybench.frontier import forms, in_proportion
from purifybench.jobs import Job, Plan
from purifybench.methods import METHODS, PUBLISHED_CRITIC, TASK_ROWS, Methods, Purified
from purifybench.picture_options import PictureOptions
from purifybench.report import estimate
from purifybench.results import Record, grouped
from purifybench.tasks import Task, built
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


def variants(task_rows: int = TASK_ROWS) -> Methods:
    """What is compared, its auxiliary rows in proportion to the task's.

    Args:
        task_rows: task rows per step.
    """
    usual = in_proportion(TASK_ROWS // 2, task_rows)
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
class Arguments(PictureOptions, Runs):
    """Variants of the default.

    Attributes:
        backbones: names of networks, of the other tasks.
        variants: names of variants; all by default.
        tasks: names of tasks, colour, photo, sets of faces or pictures; all by default, pictures alone with `--data`.
    """

    backbones: tuple[str, ...] = ("small-bn", "small-gn")
    variants: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    out: Path = Path("results/choose_defaults")


def build_task(job: Job, *, arguments: Arguments) -> Task:
    """The task of a job."""
    if job.task == "pictures":
        return arguments.picture_task(seed=job.settings.seed, bias=BIAS)
    return built(job.task, job.settings.seed, {"cache": arguments.cache, "bias": BIAS})


def plan(task: str, backbones: Sequence[str], arguments: Arguments) -> Plan:
    """The runs of all variants on a task, which read no test set."""
    on_pictures = task == "pictures"
    methods = variants(arguments.fine_tuning.batch_size if on_pictures else TASK_ROWS)
    wanted = {name: make for name, make in methods.items() if name in (arguments.variants or methods)}
    settings = arguments.picture_settings() if on_pictures else Settings(steps=STEPS[task])
    data = {"bias": BIAS, **arguments.picture_data()} if on_pictures else {}
    return Plan(task, wanted, backbones, TUNING_SEEDS[task], settings, data=data, test=False)


def main() -> None:
    """Run every variant and print a table per network."""
    arguments = read(Arguments, __doc__)
    datasets.disable_progress_bars()
    refuse_wrong(arguments, known={"backbones": BACKBONES, "variants": variants(), "tasks": TUNING_SEEDS})
    arguments.check_pictures()
    tasks = arguments.tasks or (("pictures",) if arguments.pictures.data else tuple(TUNING_SEEDS))
    with PartialState().main_process_first():  # runs only read what they share
        for task in tasks:
            if task == "pictures":
                arguments.prepare_pictures(seed=TUNING_SEEDS[task][0], bias=BIAS)
            for seed in TUNING_SEEDS[task] if task in TASK_SETS else ():
                built(task, seed, {"cache": arguments.cache})
    others = [task for task in tasks if task != "pictures"]
    networks = [(backbone, others) for backbone in arguments.backbones if others]
    networks += [(arguments.fine_tuning.network, ["pictures"])] if "pictures" in tasks else []
    for backbone, on in networks:
        plans = [plan(task, [backbone], arguments) for task in on]
        made = [arguments.records([each], build_task, title=f"{each.task} ({backbone})") for each in plans]
        if PartialState().is_main_process:
            name = "-".join(["pictures"] * ("pictures" in on) + [backbone.replace(":", ".")])
            report(f"{backbone}, accuracy on validation rows of tuning seeds in %", on, made, arguments.out / f"{name}.md")


def report(title: str, tasks: Sequence[str], made: Sequence[list[Record]], path: Path) -> None:
    """Print and keep the accuracy on validation rows, clean and shifted, per variant and task."""
    rows = [["variant", *(f"{task}, {part}" for task in tasks for part in ("clean", "shifted"))]]
    by_variant = [grouped(records, "method") for records in made]
    for variant in by_variant[0]:
        runs = [[run["accuracy"] for run in found[variant]] for found in by_variant]
        cells = [str(estimate([run[part] for run in some])) for some in runs for part in ("validation", "oracle")]
        rows.append([variant, *cells])
    tables.show(title, rows, path, width=190)


if __name__ == "__main__":
    main()
