"""What commands share: options that all have, checks of these before anything runs, and from planned runs to their records."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tyro

from .former_names import with_present_names
from .plan import Plan, carry_out
from .report import BASELINE
from .results import Record, ResultsStore
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

    def records(self, plans: Sequence[Plan], build_task: Callable[..., Task], *, title: str) -> list[Record]:
        """Tune what is to be tuned, make every run, and give the records of the reported ones.

        Args:
            plans: of the same methods.
            build_task: called with a `Job` and these options as ``arguments``.
            title: what the progress bars say.
        """
        builder = partial(build_task, arguments=self)
        jobs = carry_out(plans, builder, self.store, workers=self.workers, resume=self.resume, title=title)
        return self.store.found(job.key() for job in jobs)


@dataclass(frozen=True)
class Comparison(Runs):
    """Options of a benchmark that compares methods.

    Attributes:
        methods: names of methods; all by default. Plain training is always among them.
        seeds: one run each.
    """

    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def wanted(self, methods: Mapping[str, Any]) -> tuple[str, ...]:
        """Of the names of methods those to run."""
        return (BASELINE, *self.methods) if self.methods else tuple(methods)


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
