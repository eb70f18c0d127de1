"""Pictures of your own: what purifying gains when a network is fine-tuned on classes that go with a nuisance.

    accelerate launch benchmarks/pictures.py     embedded cartoon faces, whose art style goes with the expression
    python benchmarks/pictures.py --data PATH.parquet --class-column label --nuisance-column style --image-size 64 \\
        --network purifybench.pretrained:efficientnet_lite0

Of the training pictures of class i the share `--bias` has nuisance i; auxiliary pictures carry the nuisance alone; the test has
each class equally often with each nuisance. Writes a table, `results.jsonl` (one line per run), `report.json`, `report.md`
and figures to `--out`.
"""

import ast
import json
import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import tyro
from accelerate import PartialState
from purifybench.adapted import network_named
from purifybench.arguments import refuse_below, refuse_empty, refuse_no_share, refuse_unknown
from purifybench.backbones import BACKBONES, reads
from purifybench.jobs import Job
from purifybench.methods import PICTURE_METHODS
from purifybench.plan import Plan, carry_out
from purifybench.recipe import LEARNING_RATES, WEIGHT_DECAYS, OptimizerName, Recipe
from purifybench.report import BASELINE
from purifybench.results import ResultsStore
from purifybench.task_report import write_task_report
from purifybench.tasks import Task, pictures
from purifybench.tasks.cells import Sizes
from purifybench.training import Settings
from rich.console import Console

#: Seed that chooses the options of tuned methods; no reported seed takes part.
TUNING_SEEDS = (1001,)


@dataclass(frozen=True)
class Pictures:
    """Which pictures; cartoon faces by default.

    Attributes:
        data: parquet files, a folder that `datasets.load_dataset` opens such as an image folder, or a hub id (`id` or
            `id:config`).
        image_column: name of the image column.
        class_column: name of the column to predict.
        nuisance_column: name of the column to purify of.
        classes: classes to use, in the order in which they are paired with nuisances; all by default.
        nuisances: nuisances to use; all by default.
        image_size: pixels.
    """

    data: tuple[str, ...] = ()
    image_column: str = "image"
    class_column: str = "expression"
    nuisance_column: str = "style"
    classes: tuple[str, ...] = ()
    nuisances: tuple[str, ...] = ()
    image_size: int = 32


@dataclass(frozen=True)
class FineTuning:
    """Which network, and how it is trained.

    Attributes:
        network: a small one by its name, such as small-bn; a timm model; or `package.module:callable`, which returns a module.
        network_options: `key=value` for the callable or for timm's create_model.
        weights: file of pretrained weights, for a timm model.
        pretrained: take timm's pretrained weights from the hub.
        optimizer: adamw, or sgd with momentum 0.9; either with a one-cycle schedule.
        lr: peak learning rate; 1e-3 for adamw, 2e-2 for sgd by default.
        weight_decay: 0.01 for adamw, 0 for sgd by default.
        batch_size: task rows per step.
        augment: flip and crop task rows at random.
        clip: norm to clip the gradient to; not at all by default.
    """

    network: str = "small-bn"
    network_options: tuple[str, ...] = ()
    weights: Path | None = None
    pretrained: bool = False
    optimizer: OptimizerName = "adamw"
    lr: float | None = None
    weight_decay: float | None = None
    batch_size: int = 32
    augment: bool = False
    clip: float | None = None


@dataclass(frozen=True)
class Arguments:
    """What purifying gains on pictures whose nuisance goes with the class.

    Attributes:
        pictures: which pictures.
        sizes: rows of each split.
        fine_tuning: network and training.
        methods: names of methods; all by default. Goal 1 is always among them.
        seeds: one run each.
        steps: optimiser steps per run.
        bias: share of the training pictures of a class that have its nuisance.
        workers: runs side by side on a CPU.
        cache: folder for drawn faces.
        out: folder for results.
        resume: keep what is there of these runs, such as after a kill; otherwise they are made anew.
    """

    pictures: tyro.conf.OmitArgPrefixes[Pictures] = Pictures()
    sizes: tyro.conf.OmitArgPrefixes[Sizes] = Sizes()
    fine_tuning: tyro.conf.OmitArgPrefixes[FineTuning] = FineTuning()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 200
    bias: float = 0.95
    workers: int = os.cpu_count() or 1
    cache: Path = Path("results/faces-cache")
    out: Path = Path("results/pictures")
    resume: bool = False


def main() -> None:
    """Draw or open the pictures, tune what is to be tuned, run everything, report."""
    arguments = tyro.cli(Arguments, description=__doc__)
    datasets.disable_progress_bars()
    check(arguments)
    state = PartialState()
    with state.main_process_first():
        prepare(arguments)
    store = ResultsStore(arguments.out / "results.jsonl")
    planned = plan(arguments)
    builder = partial(build_task, arguments=arguments)
    jobs = carry_out([planned], builder, store, workers=arguments.workers, resume=arguments.resume, title="pictures")
    if state.is_main_process:
        console = Console(width=max(Console().width, 140))  # narrower than that, the table would be unreadable
        name = arguments.fine_tuning.network.replace(":", ".")
        title = f"pictures ({arguments.fine_tuning.network}, bias {arguments.bias}, {arguments.steps} steps)"
        found = store.found(job.key() for job in jobs)
        folder = arguments.out / f"pictures-{name}"
        write_task_report(title, found, planned.chosen_options(store), asdict(arguments), folder, console)


def check(arguments: Arguments) -> None:
    """Say what is wrong with the arguments before anything runs."""
    training = arguments.fine_tuning
    refuse_unknown("methods", arguments.methods, PICTURE_METHODS)
    refuse_empty("seeds", arguments.seeds)
    for name in ("steps", "workers"):
        refuse_below(name, getattr(arguments, name), 1)
    refuse_below("batch_size", training.batch_size, 2)
    refuse_below("image_size", arguments.pictures.image_size, 16)
    refuse_no_share("bias", arguments.bias)
    given = training.weights or training.pretrained or training.network_options
    if training.network in BACKBONES and given:
        raise SystemExit(f"--weights, --pretrained and --network-options: {training.network} takes none")
    if ":" in training.network and (training.weights or training.pretrained):
        raise SystemExit("--weights and --pretrained are for timm models; a callable takes --network-options")
    if training.weights and not training.weights.is_file():
        raise SystemExit(f"--weights: there is no file {training.weights}")
    if training.network in BACKBONES and not reads(training.network, arguments.pictures.image_size):
        raise SystemExit(f"--image-size: {arguments.pictures.image_size} is too small for {training.network}")


def prepare(arguments: Arguments) -> None:
    """Build a task and a network once, so that what cannot be built fails early and faces are drawn before runs share them."""
    options = dict(network_options(arguments.fine_tuning))
    try:
        task = _build(arguments, seed=arguments.seeds[0])
        network_named(arguments.fine_tuning.network, task.n_classes, options)
    except (ValueError, TypeError, ImportError) as error:
        raise SystemExit(str(error)) from error


def network_options(training: FineTuning) -> tuple[tuple[str, Any], ...]:
    """Options of the network as pairs; a value that is a Python literal is taken as one, other values as text."""
    pairs: dict[str, Any] = {}
    for given in training.network_options:
        name, equals, value = given.partition("=")
        if not (name and equals):
            raise SystemExit(f"--network-options: expected key=value, got {given!r}")
        try:
            pairs[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pairs[name] = value
    pairs |= {"weights": str(training.weights)} if training.weights else {}
    pairs |= {"pretrained": True} if training.pretrained else {}
    return tuple(sorted(pairs.items()))


def settings(arguments: Arguments, backbone: str, seed: int) -> Settings:
    """The settings of one run."""
    training = arguments.fine_tuning
    decay = WEIGHT_DECAYS[training.optimizer] if training.weight_decay is None else training.weight_decay
    return Settings(
        backbone=backbone,
        steps=arguments.steps,
        batch_size=training.batch_size,
        lr=LEARNING_RATES[training.optimizer] if training.lr is None else training.lr,
        seed=seed,
        recipe=Recipe(training.optimizer, weight_decay=decay, augment=training.augment, clip=training.clip),
        network_options=network_options(training),
    )


def plan(arguments: Arguments) -> Plan:
    """The runs."""
    described = {"bias": arguments.bias, "pictures": asdict(arguments.pictures), "sizes": asdict(arguments.sizes)}
    return Plan(
        task="pictures",
        methods=PICTURE_METHODS,
        methods_wanted=(BASELINE, *arguments.methods) if arguments.methods else tuple(PICTURE_METHODS),
        backbones=(arguments.fine_tuning.network,),
        seeds=arguments.seeds,
        tuning_seeds=TUNING_SEEDS,
        settings=partial(settings, arguments),
        data=json.loads(json.dumps(described)),
    )


def build_task(job: Job, *, arguments: Arguments) -> Task:
    """The task of a job."""
    return _build(arguments, seed=job.settings.seed)


def _build(arguments: Arguments, *, seed: int) -> Task:
    given = asdict(arguments.pictures)
    return pictures.build(seed=seed, cache=arguments.cache, bias=arguments.bias, sizes=arguments.sizes, **given)


if __name__ == "__main__":
    main()
