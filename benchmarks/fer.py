"""The face task: expressions across data sets, with a hair colour that goes with them; every baseline of the paper.

    accelerate launch benchmarks/fer.py              embedded cartoon faces, Table I, under ten minutes on two cores
    accelerate launch benchmarks/fer.py --table 3    hair colour against smiling as the label to purify of
    accelerate launch benchmarks/fer.py --table bias accuracy against the strength of the bias
    accelerate launch benchmarks/fer.py --ck PATH --mmi PATH --oulu PATH --celeba PATH --image-size 224 --backbones vgg19

Every run is a line of `results.jsonl` in `--out`, where runs of all tables accumulate; tables, figures and `accuracy.csv` lie
beside it, and `benchmarks/report.py` makes them anew. Drawn faces are kept in `--cache`.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import datasets
import tyro
from accelerate import PartialState
from purifybench import paper_tables, tables
from purifybench.backbones import BACKBONES, reads
from purifybench.command import Comparison, read, refuse_wrong
from purifybench.faces.sets import TASK_SETS
from purifybench.jobs import Job, Plan
from purifybench.methods import FACE_METHODS
from purifybench.report import BASELINE, DEFAULT, UPPER_BOUND
from purifybench.results import provenance
from purifybench.tasks import Task, built
from purifybench.training import Settings

#: Seed that chooses the options of tuned methods; no reported seed takes part.
TUNING_SEEDS = (1001,)
#: Biases of the figure.
BIASES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
AuxiliaryKind = Literal["same", "all", "other"]


@dataclass(frozen=True)
class RealFaces:
    """Your own copies of the paper's sets, in their own layouts or one folder per expression; cartoon faces otherwise.

    Attributes:
        ck: CK+.
        mmi: MMI.
        oulu: Oulu-CASIA.
        celeba: CelebA, the auxiliary faces.
        auxiliary_rows: rows of CelebA to use.
    """

    ck: Path | None = None
    mmi: Path | None = None
    oulu: Path | None = None
    celeba: Path | None = None
    auxiliary_rows: int = 4000

    def folders(self) -> dict[str, Path]:
        """The given task sets by name."""
        given = {"ck+": self.ck, "mmi": self.mmi, "oulu": self.oulu}
        return {name: path for name, path in given.items() if path is not None}


@dataclass(frozen=True)
class Arguments(Comparison):
    """Expressions of faces across data sets.

    Attributes:
        real: faces of your own.
        table: which of the paper's tables, or the accuracy against the bias.
        sets: names of cartoon sets to train on; all three by default.
        backbones: names of networks; small-bn for CPU, alexnet, vgg19 and resnet34 as published (224 pixels).
        steps: optimiser steps per run.
        image_size: pixels.
        bias: share of cartoon faces whose hair colour goes with the expression.
        auxiliary: cartoon auxiliary faces of the training set's mixture, of all three mixtures, or of other styles; each
            further one adds a row of the default with them.
        cache: folder for drawn faces.
    """

    real: tyro.conf.OmitArgPrefixes[RealFaces] = RealFaces()
    table: Literal["1", "3", "bias"] = "1"
    sets: tuple[str, ...] = tuple(TASK_SETS)
    backbones: tuple[str, ...] = ("small-bn",)
    seeds: tuple[int, ...] = (0, 1)
    steps: int = 500
    image_size: int = 32
    bias: float = 0.7
    auxiliary: tuple[AuxiliaryKind, ...] = ("same",)
    cache: Path = Path("results/faces-cache")
    out: Path = Path("results/faces")


def main() -> None:
    """Draw the faces, run everything, report."""
    arguments = read(Arguments, __doc__)
    check(arguments)
    state = PartialState()
    datasets.disable_progress_bars()  # drawing has its own
    with state.main_process_first():
        prepare(arguments)
    biases = BIASES if arguments.table == "bias" else (arguments.bias,)
    wanted = [found for bias in biases for found in plans(replace(arguments, bias=bias))]
    title = f"table {arguments.table}" if arguments.table != "bias" else "biases"
    records = arguments.records(wanted, build_task, title=title)
    if state.is_main_process:
        console = tables.console(120)
        for path in paper_tables.write(records, arguments.out, console, wanted=(arguments.table,)):
            (path.parent / "provenance.json").write_text(json.dumps(provenance(), indent=1), encoding="utf-8")
            console.print(f"figures and report.md: {path.parent}")


def check(arguments: Arguments) -> None:
    """Say what is wrong with the arguments before anything runs."""
    refuse_wrong(
        arguments,
        known={"sets": TASK_SETS, "backbones": BACKBONES, "methods": FACE_METHODS},
        filled=["sets", "backbones", "seeds", "auxiliary"],
        least={"steps": 1, "workers": 1, "image_size": 16},
        shares=["bias"],
    )
    for name in arguments.backbones:
        if not reads(name, arguments.image_size):
            raise SystemExit(f"--image-size: {arguments.image_size} is too small for {name}; as published it is 224")
    real = arguments.real
    if (real.folders() or real.celeba) and not (len(real.folders()) > 1 and real.celeba):
        raise SystemExit(
            "real faces need at least two of --ck, --mmi and --oulu, to train on one and test on others, and --celeba"
        )
    if real.celeba and (arguments.table == "bias" or arguments.auxiliary != ("same",)):
        raise SystemExit("--table bias and --auxiliary are for cartoon faces alone: nobody knows the bias of real ones")
    if real.celeba and arguments.sets != tuple(TASK_SETS):
        raise SystemExit("--sets names cartoon sets: of real ones, give the folders that you want")


def prepare(arguments: Arguments) -> None:
    """Build the tasks once: wrong folders end the command early, and faces are drawn before runs side by side read them."""
    tunes = any(list(plan.tuning_jobs()) for plan in plans(arguments))
    seeds = (*arguments.seeds, *(TUNING_SEEDS if tunes else ()))
    kinds = dict.fromkeys(("same", *arguments.auxiliary))
    real = arguments.real.folders()
    try:
        for seed, name, kind in product(seeds[:1] if real else seeds, real or arguments.sets, kinds):
            built(name, seed, {**task_options(arguments), "auxiliary": kind})
    except (ValueError, ImportError) as error:
        raise SystemExit(str(error)) from error


def plans(arguments: Arguments) -> list[Plan]:
    """The runs on the three sets; methods that see no auxiliary faces are the same whatever those are."""
    real = arguments.real.celeba is not None
    wanted = {
        "1": arguments.methods or tuple(FACE_METHODS),
        "3": (DEFAULT,),
        "bias": arguments.methods or (UPPER_BOUND, DEFAULT),
    }
    methods = (BASELINE, *wanted[arguments.table])
    if arguments.table == "bias" and arguments.bias not in (BIASES[0], BIASES[-1]):
        # it trains on hair at random and is judged by hair at random, so it is a level line: its two ends will do
        methods = tuple(name for name in methods if name != UPPER_BOUND)
    alone = tuple(name for name in methods if name in (BASELINE, UPPER_BOUND) and not (real and name == UPPER_BOUND))
    helped = tuple(name for name in methods if name not in (BASELINE, UPPER_BOUND))
    main, *others = arguments.auxiliary
    found = []
    for name in arguments.real.folders() or arguments.sets:
        make = partial(_plan, name, arguments)
        found.append(make(alone, "hair", "same"))
        found.append(make(helped, "hair", main))
        found += [make((DEFAULT,), "hair", kind) for kind in others]
        found += [make((DEFAULT,), "smiling", main)] if arguments.table == "3" else []
    return [plan for plan in found if plan.methods]


def _plan(name: str, arguments: Arguments, methods: tuple[str, ...], label: str, auxiliary: str) -> Plan:
    described = {"label": label, "auxiliary": auxiliary, "image_size": arguments.image_size}
    real = {name: value for name, value in task_options(arguments).items() if name in ("folders", "celeba", "auxiliary_rows")}
    described |= real if arguments.real.celeba else {"bias": arguments.bias}
    return Plan(
        task=name,
        methods={method: make for method, make in FACE_METHODS.items() if method in methods},
        backbones=arguments.backbones,
        seeds=arguments.seeds,
        settings=Settings(steps=arguments.steps),
        tuning_seeds=TUNING_SEEDS,
        data=described,
        rename=partial(row_name, label=label, auxiliary=auxiliary),
    )


def row_name(row: str, *, label: str, auxiliary: str) -> str:
    """What a row is called in the tables, where its auxiliary faces or their label are not the usual ones."""
    row = paper_tables.SMILING if label == "smiling" else row
    return row if auxiliary == "same" else f"{row}, auxiliary faces: {auxiliary}"


def build_task(job: Job, *, arguments: Arguments) -> Task:
    """The task of a job."""
    return built(job.task, job.settings.seed, {**job.data, **task_options(arguments)})


def task_options(arguments: Arguments) -> dict[str, Any]:
    """What all tasks of the command share; a job's own data set it apart from the others."""
    real = arguments.real
    given = {"cache": arguments.cache, "image_size": arguments.image_size}
    return given | {"folders": real.folders(), "celeba": real.celeba, "auxiliary_rows": real.auxiliary_rows}


if __name__ == "__main__":
    main()
