"""Pictures of your own: what purifying gains when a network is fine-tuned on classes that go with a nuisance.

    accelerate launch benchmarks/pictures.py     embedded cartoon faces, whose art style goes with the expression
    python benchmarks/pictures.py --data PATH.parquet --class-column label --nuisance-column style --image-size 64 \\
        --network purifybench.pretrained:efficientnet_lite0

Of the training pictures of class i the share `--bias` has nuisance i; auxiliary pictures carry the nuisance alone; the test has
each class equally often with each nuisance. Writes a table, `results.jsonl` (one line per run), `report.json`, `report.md`
and figures to `--out`.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import datasets
import tyro
from accelerate import PartialState
from purifybench import paper_tables
from purifybench.adapted import network_named
from purifybench.arguments import refuse_below, refuse_empty, refuse_no_share, refuse_unknown
from purifybench.backbones import BACKBONES, reads
from purifybench.former_names import with_present_names
from purifybench.jobs import Job
from purifybench.methods import PICTURE_METHODS
from purifybench.picture_options import FineTuning, Pictures, Rows, network_options, recipe
from purifybench.plan import Plan, carry_out
from purifybench.recipe import LEARNING_RATES
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
class Arguments:
    """What purifying gains on pictures whose nuisance goes with the class.

    Attributes:
        pictures: which pictures.
        rows: rows of each split.
        fine_tuning: network and training.
        methods: names of methods; all by default. Plain training is always among them.
        seeds: one run each.
        steps: optimiser steps per run; 500 for the cartoon faces, 200 for data of your own by default.
        bias: share of the training pictures of a class that have its nuisance.
        workers: runs side by side on a CPU.
        cache: folder for drawn faces.
        out: folder for results.
        resume: keep what is there of these runs, such as after a kill; otherwise they are made anew.
    """

    pictures: tyro.conf.OmitArgPrefixes[Pictures] = field(default_factory=Pictures)
    rows: tyro.conf.OmitArgPrefixes[Rows] = field(default_factory=Rows)
    fine_tuning: tyro.conf.OmitArgPrefixes[FineTuning] = field(default_factory=FineTuning)
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int | None = None
    bias: float = 0.95
    workers: int = os.cpu_count() or 1
    cache: Path = Path("results/faces-cache")
    out: Path = Path("results/pictures")
    resume: bool = False


def main() -> None:
    """Draw or open the pictures, tune what is to be tuned, run everything, report."""
    arguments = with_present_names(tyro.cli(Arguments, description=__doc__))
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
        console = Console(width=max(Console().width, 160))  # narrower than that, the table would be unreadable
        network = arguments.fine_tuning.network
        title = f"pictures ({network}, bias {arguments.bias}, {steps(arguments)} steps)"
        found = store.found(job.key() for job in jobs)
        folder = arguments.out / f"pictures-{network.replace(':', '.')}"
        write_task_report(title, found, planned.chosen_options(store), asdict(arguments), folder, console)
        paper_tables.write_accuracies(found, arguments.out / "accuracy.csv")


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
    own = arguments.pictures
    if bool(own.data) != bool(own.class_column) or bool(own.data) != bool(own.nuisance_column):
        raise SystemExit("--data, --class-column and --nuisance-column go together; without them there are cartoon faces")
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


def steps(arguments: Arguments) -> int:
    """Steps of a run."""
    usual = 200 if arguments.pictures.data else 500
    return usual if arguments.steps is None else arguments.steps


def sizes(arguments: Arguments) -> Sizes:
    """Rows of the splits."""
    usual = 320 if arguments.pictures.data else 660
    given = asdict(arguments.rows)
    return Sizes(**{**given, "rows": usual if arguments.rows.rows is None else arguments.rows.rows})


def settings(arguments: Arguments, backbone: str, seed: int) -> Settings:
    """The settings of one run."""
    training = arguments.fine_tuning
    return Settings(
        backbone=backbone,
        steps=steps(arguments),
        batch_size=training.batch_size,
        lr=LEARNING_RATES[training.optimizer] if training.lr is None else training.lr,
        seed=seed,
        recipe=recipe(training),
        network_options=network_options(training),
    )


def plan(arguments: Arguments) -> Plan:
    """The runs."""
    described = {"bias": arguments.bias, "pictures": asdict(arguments.pictures), "sizes": asdict(sizes(arguments))}
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
    given = {name: value for name, value in asdict(arguments.pictures).items() if value is not None}
    return pictures.build(seed=seed, cache=arguments.cache, bias=arguments.bias, sizes=sizes(arguments), **given)


if __name__ == "__main__":
    main()
