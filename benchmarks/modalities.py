"""One table over several kinds of data: the same methods on tables, sentences and pictures, each with its own network.

    python benchmarks/modalities.py                                 the embedded benches: table, colour, scanned
    python benchmarks/modalities.py --adult PATH.parquet --sentences PATH.parquet --styles PATH.parquet
    python benchmarks/modalities.py --benches table colour --methods wdpurify
    python benchmarks/modalities.py --own-rows                      the nuisance of the training rows is known
    python benchmarks/modalities.py --tune                          variants of the default, on tuning seeds and validation rows

Of the training rows of class i the share `--bias` has nuisance i; auxiliary rows carry the nuisance alone; the test has each
class equally often with each nuisance. A bench without its data or packages is left out, and a line says what it needs. Writes
`results.jsonl` (one line per run), `report.json`, `report.md` and `accuracy.csv` to `--out`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
from accelerate import PartialState
from purifybench import bench_table, tables
from purifybench.adapted import network_named
from purifybench.benches import BENCHES
from purifybench.command import Comparison, read, refuse_wrong
from purifybench.jobs import Job, Plan
from purifybench.methods import TABLES, methods_of
from purifybench.report import UPPER_BOUND
from purifybench.results import Record, grouped, write_accuracies, write_described
from purifybench.tasks import Task, on_own_rows

#: Seed that chooses the options of tuned methods; no reported seed takes part.
TUNING_SEEDS = (1001,)
#: Seeds on which variants of the default are compared.
VARIANT_SEEDS = (1001, 1002, 1003, 1004)
#: The tables of methods, see `TABLES`.
USUAL, SEVERAL_LABELS, OWN_ROWS, VARIANTS = (
    "kinds of data",
    *(f"kinds of data, {runs}" for runs in ("several labels", "own rows", "variants")),
)
#: Every method's name, in the order of the table.
METHOD_NAMES = tuple(dict.fromkeys(name for table in (SEVERAL_LABELS, OWN_ROWS, VARIANTS) for name in TABLES[table]))


@dataclass(frozen=True)
class Arguments(Comparison):
    """What purifying gains on several kinds of data; the upper bound is always among the methods.

    Attributes:
        benches: names of benches; all whose data are there by default.
        adult: parquet file of UCI Adult, for the bench adult.
        adult_nuisance: what its networks are to forget: sex, race (white or other), age (four ranges), or sex and age.
        sentences: parquet file of `text`, `label` and `source`, for the benches sentences and sentences-tuned.
        styles: parquet file of `image`, `label` and `style`, for the bench styles.
        scanned: parquet file of pictures for the bench scanned; cartoon faces by default.
        scanned_class: column of their class.
        own_rows: compare the methods for those who know the nuisance of their training rows; auxiliary rows are these.
        tune: compare variants of the default on seeds that are never reported and on validation rows; no test is read.
        steps: optimiser steps per run, in place of each bench's own.
        bias: share of the training rows of a class that have its nuisance.
        cache: folder for drawn faces and encoded sentences.
    """

    benches: tuple[str, ...] = ()
    adult: Path | None = None
    adult_nuisance: Literal["sex", "race", "age", "sex+age"] = "sex"
    sentences: Path | None = None
    styles: Path | None = None
    scanned: Path | None = None
    scanned_class: str = "label"
    own_rows: bool = False
    tune: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int | None = None
    bias: float = 0.95
    cache: Path = Path("results/modalities-cache")
    out: Path = Path("results/modalities")


def main() -> None:
    """Build every bench once, tune what is to be tuned, run everything, report."""
    arguments = read(Arguments, __doc__)
    datasets.disable_progress_bars()
    check(arguments)
    state = PartialState()
    records: list[Record] = []
    chosen: list[dict[str, Any]] = []
    for name in arguments.benches or BENCHES:
        with state.main_process_first():
            planned = plan(name, arguments)
        if isinstance(planned, str):
            if state.is_main_process:
                print(f"{name} is left out: {planned}")
            continue
        records += arguments.records([planned], build_task, title=name)
        for (_, method, validation), options in planned.chosen_options(arguments.store).items():
            chosen.append({"bench": name, "method": method, "by": validation, "options": dict(options)})
    if state.is_main_process and records:
        write_report(records, chosen, arguments)


def check(arguments: Arguments) -> None:
    """Say what is wrong with the arguments before anything runs."""
    known = {"benches": BENCHES, "methods": TABLES[table(arguments)]}
    refuse_wrong(arguments, known=known, filled=["seeds"], least={"steps": 1, "workers": 1}, shares=["bias"])
    if arguments.tune and arguments.own_rows:
        raise SystemExit("--tune and --own-rows: choose one")
    for name in ("adult", "sentences", "styles", "scanned"):
        path = getattr(arguments, name)
        if path is not None and not path.is_file():
            raise SystemExit(f"--{name}: there is no file {path}")


def plan(name: str, arguments: Arguments) -> Plan | str:
    """The runs of a bench, or why there can be none; what cannot be built is found out before anything runs."""
    bench = BENCHES[name]
    given = vars(arguments)
    if missing := bench.missing(given):
        return f"it needs {' and '.join(f'--{option}' for option in missing)}"
    try:
        task = bench.task(seeds(arguments)[0], given)
        options = bench.network_options(task)
        network_named(bench.network, task.n_classes, dict(options))
    except ImportError as error:
        return str(error)
    except ValueError as error:
        raise SystemExit(f"{name}: {error}") from error
    methods = methods_of(table(arguments), bench.batch_size, bench.fitted)
    return Plan(
        task=name,
        methods=arguments.wanted(methods, UPPER_BOUND),
        backbones=(bench.network,),
        seeds=seeds(arguments),
        settings=bench.settings(options, arguments.steps),
        tuning_seeds=TUNING_SEEDS,
        data=bench.data(given) | ({"own rows": True} if arguments.own_rows else {}),
        test=not arguments.tune,
    )


def table(arguments: Arguments) -> str:
    """The table of methods that is made."""
    if arguments.tune or arguments.own_rows:
        return VARIANTS if arguments.tune else OWN_ROWS
    return SEVERAL_LABELS if "+" in arguments.adult_nuisance else USUAL


def seeds(arguments: Arguments) -> tuple[int, ...]:
    """The seeds of the runs."""
    return VARIANT_SEEDS if arguments.tune else arguments.seeds


def build_task(job: Job, *, arguments: Arguments) -> Task:
    """The task of a job."""
    task = BENCHES[job.task].task(job.settings.seed, vars(arguments))
    return on_own_rows(task) if arguments.own_rows else task


def write_report(records: Sequence[Record], chosen: Sequence[dict[str, Any]], arguments: Arguments) -> None:
    """Print the tables and write all of it."""
    console = tables.console()
    shown = bench_table.figures(records)
    rows = bench_table.ordered(records, METHOD_NAMES)
    pages = [f"mean ± half a 95 % interval over {len(grouped(records, 'seed'))} seeds, bias {arguments.bias}"]
    for title, table in shown.items():
        text = bench_table.lines(table, rows, mean=title.startswith("gap"))
        console.print(tables.upright(title, text))
        pages.append(f"{title}\n\n{tables.markdown(text)}")
    (arguments.out / "report.md").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    cells = {
        title: {row: {bench: asdict(cell) for bench, cell in of_row.dropna().items()} for row, of_row in table.iterrows()}
        for title, table in shown.items()
    }
    write_described(arguments.out / "report.json", asdict(arguments), chosen=list(chosen), tables=cells)
    write_accuracies(records, arguments.out / "accuracy.csv")
    console.print(f"report.md, report.json and accuracy.csv: {arguments.out}")


if __name__ == "__main__":
    main()
