"""The face task: expressions across data sets, with a hair colour that goes with them; every baseline of the paper.

    accelerate launch benchmarks/fer.py              embedded cartoon faces, Table I, under ten minutes on two cores
    accelerate launch benchmarks/fer.py --table 3    hair colour against smiling as the label to purify of
    accelerate launch benchmarks/fer.py --table bias accuracy against the strength of the bias

Writes a table, `results.jsonl` (one line per run), `report.md` and figures to `--out`; drawn faces are kept in `--cache`.
"""

import json
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import tyro
from accelerate import PartialState
from purifybench import cross_table, figures, report
from purifybench.backbones import BACKBONES
from purifybench.faces.sets import TASK_SETS, auxiliary_faces, task_faces
from purifybench.jobs import run_jobs
from purifybench.methods import FACE_METHODS
from purifybench.plan import Plan
from purifybench.results import Record, ResultsStore, provenance
from purifybench.tasks import Task, cartoon_faces
from purifybench.training import Settings
from rich.console import Console

#: Seed that chooses the opponent's weight; no reported seed takes part.
TUNING_SEEDS = (1001,)
#: Biases of the figure.
BIASES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
DEFAULT = "PL all groups (default)"


@dataclass(frozen=True)
class Arguments:
    """Expressions of faces across data sets.

    Attributes:
        table: which of the paper's tables, or the accuracy against the bias.
        extractors: names of networks; small-bn for CPU, alexnet, vgg19 and resnet34 as published (224 pixels).
        methods: names of methods; all by default. Goal 1 is always among them.
        seeds: one run each.
        steps: optimiser steps per run.
        image_size: pixels.
        bias: share of faces whose hair colour goes with the expression.
        auxiliary: auxiliary faces of the training set's mixture, of all three mixtures, or of other styles.
        workers: runs side by side on a CPU.
        cache: folder for drawn faces.
        out: folder for results.
        resume: go on where a killed run stopped.
    """

    table: Literal["1", "3", "bias"] = "1"
    extractors: tuple[str, ...] = ("small-bn",)
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1)
    steps: int = 500
    image_size: int = 32
    bias: float = 0.7
    auxiliary: Literal["same", "all", "other"] = "same"
    workers: int = os.cpu_count() or 1
    cache: Path = Path("results/faces-cache")
    out: Path = Path("results/faces")
    resume: bool = False


def main() -> None:
    """Draw the faces, run everything, report."""
    arguments = tyro.cli(Arguments, description=__doc__)
    check(arguments)
    state = PartialState()
    console = Console(width=max(Console().width, 120))
    store = ResultsStore(arguments.out / f"results-{arguments.table}.jsonl")
    if not arguments.resume and state.is_main_process:
        store.clear()
    datasets.disable_progress_bars()  # drawing has its own
    with state.main_process_first():
        draw(arguments)
    {"1": table_1, "3": table_3, "bias": bias_figure}[arguments.table](arguments, store, console)


def check(arguments: Arguments) -> None:
    """Say what is wrong with the arguments before anything runs."""
    for name, given, known in (
        ("extractors", arguments.extractors, BACKBONES),
        ("methods", arguments.methods, FACE_METHODS),
    ):
        for value in given:
            if value not in known:
                raise SystemExit(f"--{name}: {value!r} is none of {', '.join(map(repr, known))}")
    if not arguments.seeds:
        raise SystemExit("--seeds: name at least one")
    if not 0 <= arguments.bias <= 1:
        raise SystemExit(f"--bias: must be in [0, 1], got {arguments.bias}")
    if arguments.image_size < 16:
        raise SystemExit(f"--image-size: must be at least 16, got {arguments.image_size}")


def draw(arguments: Arguments) -> None:
    """Draw what is not in the cache yet, so that runs side by side only read."""
    for seed in (*arguments.seeds, *(TUNING_SEEDS if tunes(arguments) else ())):
        where = {"seed": seed, "size": arguments.image_size, "cache": arguments.cache}
        for name in TASK_SETS:
            task_faces(name, **where)
        for kind in TASK_SETS if arguments.auxiliary == "same" else (arguments.auxiliary,):
            auxiliary_faces(kind, **where)


def tunes(arguments: Arguments) -> bool:
    """Whether the opponent is among the methods."""
    return arguments.table == "1" and (not arguments.methods or "AMTL" in arguments.methods)


def build_task(name: str, seed: int, *, arguments: Arguments, label: str) -> Task:
    """The task of one training set and seed."""
    return cartoon_faces.build(
        seed=seed,
        train=name,
        cache=arguments.cache,
        image_size=arguments.image_size,
        bias=arguments.bias,
        label=label,
        auxiliary=arguments.auxiliary,
    )


def settings(arguments: Arguments, extractor: str, seed: int) -> Settings:
    """The settings of one run."""
    return Settings(backbone=extractor, steps=arguments.steps, batch_size=64, seed=seed)


def plan(name: str, arguments: Arguments, methods: tuple[str, ...]) -> Plan:
    """The runs on one training set."""
    return Plan(
        task=name,
        methods=FACE_METHODS,
        opponent="AMTL",
        wanted=methods,
        backbones=arguments.extractors,
        seeds=arguments.seeds,
        tuning_seeds=TUNING_SEEDS,
        settings=partial(settings, arguments),
    )


def run(arguments: Arguments, store: ResultsStore, *, methods: tuple[str, ...], label: str = "hair") -> list[Record]:
    """All runs of the methods on the three training sets; their records."""
    described = {"bias": arguments.bias, "image_size": arguments.image_size, "label": label, "auxiliary": arguments.auxiliary}
    data: dict[str, Any] = json.loads(json.dumps(described))
    start = partial(
        run_jobs,
        build_task=partial(build_task, arguments=arguments, label=label),
        store=store,
        data=data,
        workers=arguments.workers,
        methods=FACE_METHODS,
    )
    records: list[Record] = []
    for name in TASK_SETS:
        planned = plan(name, arguments, methods)
        start(list(planned.tuning_jobs()), title=f"{name}: choosing the opponent's weight")
        jobs = list(planned.reported_jobs(planned.chosen_weights(store, data)))
        start(jobs, title=f"{name}: all methods")
        records += [found for job in jobs if (found := store.find(job.key(data))) is not None]
    return records


def table_1(arguments: Arguments, store: ResultsStore, console: Console) -> None:
    """Every method, every pair of sets."""
    records = run(arguments, store, methods=arguments.methods)
    write_report("Table I analogue, cartoon faces", records, arguments, console)


def table_3(arguments: Arguments, store: ResultsStore, console: Console) -> None:
    """Hair colour against smiling."""
    records = run(arguments, store, methods=(DEFAULT,))
    for label in ("smiling",):
        for record in run(arguments, store, methods=(DEFAULT,), label=label):
            if record["key"]["row"] == DEFAULT:
                records.append(record | {"key": record["key"] | {"row": f"PL ({label})"}})
    renamed = {DEFAULT: "PL (hair colour)"}
    records = [
        record | {"key": record["key"] | {"row": renamed.get(record["key"]["row"], record["key"]["row"])}} for record in records
    ]
    write_report("Table III analogue, cartoon faces", records, arguments, console)


def bias_figure(arguments: Arguments, store: ResultsStore, console: Console) -> None:
    """Accuracy on unbiased faces against the bias of the training faces."""
    methods = arguments.methods or (report.UPPER_BOUND, DEFAULT)
    by_bias = {bias: run(replace(arguments, bias=bias), store, methods=methods) for bias in BIASES}
    if PartialState().is_main_process:
        rows = {
            bias: report.summarise([_own_sets(record) for record in records if record["key"]["task"] == "ck-like"])
            for bias, records in by_bias.items()
        }
        figures.accuracy_over(rows, "unbiased", "bias of hair colour with expression", arguments.out / "bias.png")
        for bias, found in rows.items():
            console.print(report.terminal_table(f"ck-like, bias {bias}", found))


def _own_sets(record: Record) -> Record:
    return record | {"accuracy": {name: record["accuracy"][name] for name in ("within", "unbiased")}}


def write_report(title: str, records: list[Record], arguments: Arguments, console: Console) -> None:
    """Print the tables and write Markdown, JSON and figures, one folder per extractor."""
    if not PartialState().is_main_process:
        return
    for extractor in arguments.extractors:
        mine = [record for record in records if record["key"]["settings"]["backbone"] == extractor]
        heading = f"{title}, {extractor}, bias {arguments.bias}, {len(arguments.seeds)} seeds"
        folder = arguments.out / f"table-{arguments.table}-{extractor}"
        folder.mkdir(parents=True, exist_ok=True)
        cross = cross_table.lines(cross_table.cross_table(mine))
        console.print(cross_table.terminal(heading, cross))
        parts = [f"{heading}\n\n{cross_table.markdown(cross)}"]
        for name in TASK_SETS:
            own = [record for record in mine if record["key"]["task"] == name]
            rows = report.summarise([_own_sets(record) for record in own])
            console.print(report.terminal_table(f"{name}, own people", rows))
            parts.append(f"{name}, own people\n\n{report.markdown_table(rows)}")
            figures.accuracy_bars(report.summarise(own), f"{name} ({extractor})", folder / f"accuracy-{name}.png")
            figures.component_shares(own, f"{name} ({extractor})", folder / f"components-{name}.png")
        (folder / "report.md").write_text("\n\n".join(parts) + "\n")
        (folder / "provenance.json").write_text(json.dumps(provenance(), indent=1))
        console.print(f"figures and report.md: {folder}")


if __name__ == "__main__":
    main()
