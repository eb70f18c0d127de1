"""What commands share: options that all have, checks of these before anything runs, and from planned runs to their report."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tyro
from accelerate import PartialState
from rich.console import RenderableType

from . import figures, report, tables
from .former_names import with_present_names
from .jobs import Job, Plan, run_jobs
from .methods import Methods, candidates
from .results import Record, ResultsStore, write_described
from .tasks import Task

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Runs:
    """Options of whatever makes runs.

    Attributes:
        workers: runs side by side on a CPU.
        out: folder for results.
        resume: keep what is there of these runs, such as after a kill; otherwise they are made anew.
    """

    workers: int = os.cpu_count() or 1
    out: Path = Path("results")
    resume: bool = False

    @property
    def store(self) -> ResultsStore:
        """Where the records of the runs are."""
        return ResultsStore(self.out / "results.jsonl")

    def records(
        self,
        plans: Sequence[Plan],
        build_task: Callable[..., Task],
        *,
        title: str,
        above: Callable[[list[Record]], RenderableType] | None = None,
    ) -> list[Record]:
        """Run the methods without options and tune the others, then run these, and give the records of the reported runs.

        Other runs in the store always stay.

        Args:
            plans: what to run.
            build_task: called with a `Job` and these options as ``arguments``.
            title: what the progress bars say.
            above: makes what is shown above the progress bars of the reported runs so far; it goes at the end.
        """
        methods = {name: make for plan in plans for name, make in plan.methods.items()}
        build = partial(build_task, arguments=self)

        def found(jobs: Sequence[Job]) -> list[Record]:
            return self.store.found(job.key() for job in jobs)

        def carry_out(jobs: list[Job], stage: str, shown: Sequence[Job]) -> None:
            if not self.resume and PartialState().is_main_process:
                self.store.forget(job.key() for job in jobs)
            PartialState().wait_for_everyone()
            run = partial(run_jobs, jobs, build, self.store, workers=self.workers, methods=methods)
            run(title=f"{title}: {stage}", above=None if above is None else lambda: above(found(shown)))

        untuned = [job for plan in plans for job in plan.reported_jobs({})]
        tuning = [job for plan in plans for job in plan.tuning_jobs()]
        carry_out([*untuned, *tuning], "methods without options, and tuning" if tuning else "all methods", untuned)
        reported = [job for plan in plans for job in plan.reported_jobs(plan.chosen_options(self.store))]
        carry_out([job for job in reported if candidates(methods[job.method])], "tuned methods", reported)
        return found(reported)

    def report(self, title: str, records: Sequence[Record], plan: Plan, folder: Path, *, width: int = 160, **said: Any) -> None:
        """The report of one task and network in a folder of its own: a table, Markdown, JSON and figures.

        Args:
            title: of table and figures.
            records: runs that read the test sets.
            plan: where they come from.
            folder: where to write.
            width: of the terminal at least.
            **said: of the arguments that are written down, those that differ from these.
        """
        console = tables.console(width)
        rows = report.summarise(records)
        console.print(report.terminal_table(title, rows))
        said_of_rows = report.verdict(rows), report.bound_line(rows)
        console.print(*filter(None, said_of_rows), sep="\n")
        figures.accuracy_bars(rows, title, folder / "accuracy.png")
        figures.critic_over_steps(records, title, folder / "critic.png")
        figures.component_shares(records, title, folder / "components.png")
        text = "\n\n".join([title, report.markdown_table(rows), *filter(None, said_of_rows)]) + "\n"
        (folder / "report.md").write_text(text, encoding="utf-8")
        backbone = records[0]["key"]["settings"]["backbone"]
        chosen = [
            {"method": method, "by": validation, "options": dict(options)}
            for (name, method, validation), options in plan.chosen_options(self.store).items()
            if name == backbone
        ]
        described = {"chosen": chosen, "rows": [asdict(row) for row in rows]}
        write_described(folder / "report.json", asdict(self) | said, **described)
        console.print(f"figures, report.md and report.json: {folder}")


@dataclass(frozen=True)
class Comparison(Runs):
    """Options of a benchmark that compares methods.

    Attributes:
        methods: names of methods; all by default. Plain training is always among them.
        seeds: one run each.
    """

    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def wanted(self, methods: Methods, *always: str) -> Methods:
        """Of the methods those to run, plain training and others that are ``always`` among them."""
        names = {report.BASELINE, *always, *self.methods}
        return {name: make for name, make in methods.items() if not self.methods or name in names}


def read(kind: type[Kind], description: str | None) -> Kind:
    """What the command line says; names of methods in earlier tables are taken too."""
    return with_present_names(tyro.cli(kind, description=description))


def refuse_wrong(
    arguments: Any,
    *,
    known: Mapping[str, Iterable[str]] | None = None,
    filled: Iterable[str] = (),
    least: Mapping[str, int] | None = None,
    shares: Iterable[str] = (),
) -> None:
    """End the command with the name of an option that is wrong.

    Args:
        arguments: with the options as attributes, Python names.
        known: the names that there are, of options that are names.
        filled: options that are lists and need an entry.
        least: smallest numbers; None, which stands for a default, is never too small.
        shares: options that are in [0, 1], or lists of such.
    """

    def refuse(option: str, problem: str) -> None:
        raise SystemExit(f"--{option.replace('_', '-')}: {problem}")

    for option, names in (known or {}).items():
        there = list(names)
        given = getattr(arguments, option)
        for name in [given] if isinstance(given, str) else given:
            if name not in there:
                refuse(option, f"{name!r} is none of {', '.join(map(repr, there))}")
    for option in filled:
        if not getattr(arguments, option):
            refuse(option, "name at least one")
    for option, number in (least or {}).items():
        if (value := getattr(arguments, option)) is not None and value < number:
            refuse(option, f"must be at least {number}, got {value}")
    for option in shares:
        value = getattr(arguments, option)
        for share in value if isinstance(value, tuple) else [value]:
            if not 0 <= share <= 1:
                refuse(option, f"must be in [0, 1], got {share}")
