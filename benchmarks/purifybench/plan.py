"""Which runs a benchmark makes: methods that declare a grid tuned on validation data, then every method on every seed."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from accelerate import PartialState

from .jobs import Job, TaskBuilder, run_jobs
from .methods import Method, Options, candidates
from .results import Record, ResultsStore
from .training import Settings

#: Best options by backbone, method and the validation set that chose them.
Chosen = Mapping[tuple[str, str, str], Options]


@dataclass(frozen=True)
class Plan:
    """The runs of one task.

    Attributes:
        task: name of the task.
        methods: names and constructors, in the order of the tables.
        methods_wanted: names of the methods to run.
        backbones: names of networks.
        seeds, tuning_seeds: one run each; no reported seed takes part in tuning.
        settings: makes a run's settings from backbone and seed.
        data: what the data depend on beside task and seed.
        rename: what a method's row is called in the tables, from its usual name.
        test: read the test sets; without it the runs are judged by validation rows, to choose a default.
    """

    task: str
    methods: Mapping[str, Callable[..., Method]]
    methods_wanted: Sequence[str]
    backbones: Sequence[str]
    seeds: Sequence[int]
    tuning_seeds: Sequence[int]
    settings: Callable[[str, int], Settings]
    data: Mapping[str, Any] = field(default_factory=dict)
    rename: Callable[[str], str] = str
    test: bool = True

    def tuning_jobs(self) -> Iterable[Job]:
        """Runs that choose the options of the methods that declare a grid; they read validation data alone."""
        for backbone in self.backbones:
            for method in self._wanted():
                for seed in self.tuning_seeds:  # outside, as a task is built once per seed
                    settings = self.settings(backbone, seed)
                    for options in candidates(self.methods[method]):
                        yield Job(self.task, method, settings, options=options, test=False, data=self.data)

    def chosen_options(self, store: ResultsStore) -> Chosen:
        """The best options by mean accuracy over the tuning seeds; of equals those that the grid has first."""
        by_run: dict[tuple[str, str], list[Record]] = {}
        for record in store.found(job.key() for job in self.tuning_jobs()):
            key = record["key"]
            by_run.setdefault((key["settings"]["backbone"], key["method"]), []).append(record)
        return {
            (backbone, method, validation): _best(candidates(self.methods[method]), records, validation)
            for (backbone, method), records in by_run.items()
            for validation in records[0]["accuracy"]
        }

    def reported_jobs(self, chosen: Chosen) -> Iterable[Job]:
        """The runs of the table, seed by seed, so that an interrupted benchmark has whole seeds."""
        for backbone in self.backbones:
            for seed in self.seeds:
                for method in self._wanted():
                    job = partial(Job, self.task, method, self.settings(backbone, seed), data=self.data, test=self.test)
                    if not candidates(self.methods[method]):
                        yield job(row=self.rename(method))
                        continue
                    for validation in ("validation", "oracle"):
                        if (backbone, method, validation) in chosen:
                            options = chosen[backbone, method, validation]
                            yield job(options=options, row=self.rename(_row(method, options, validation)))

    def _wanted(self) -> list[str]:
        """The methods to run, in the order of the tables."""
        return [name for name in self.methods if name in self.methods_wanted]


def _best(grid: Sequence[Options], records: Sequence[Record], validation: str) -> Options:
    """The point of a grid whose runs have the highest mean accuracy on a validation set."""

    def score(options: Options) -> float:
        stored = json.loads(json.dumps(options))
        return float(np.mean([run["accuracy"][validation] for run in records if run["key"]["options"] == stored]))

    return max(grid, key=score)


def _row(method: str, options: Options, validation: str) -> str:
    """A tuned method under its own name; one whose options were chosen by data that no user has says so."""
    return method if validation == "validation" else f"{method}, oracle {' and '.join(name for name, _ in options)}"


def carry_out(
    plans: Sequence[Plan], build_task: TaskBuilder, store: ResultsStore, *, workers: int, resume: bool, title: str
) -> list[Job]:
    """Tune the methods that declare a grid, then make every run.

    Args:
        plans: of the same methods.
        build_task: see `run_jobs`.
        store: where records go.
        workers: processes on a CPU.
        resume: keep what the store has of these runs; otherwise they are made anew. Other runs in the store always stay.
        title: what the progress bars say.

    Returns:
        The reported runs.
    """
    state = PartialState()

    def make(jobs: list[Job], stage: str) -> None:
        if not resume and state.is_main_process:
            store.forget(job.key() for job in jobs)
        state.wait_for_everyone()
        run_jobs(jobs, build_task, store, workers=workers, title=f"{title}: {stage}", methods=plans[0].methods)

    make([job for plan in plans for job in plan.tuning_jobs()], "tuning")
    reported = [job for plan in plans for job in plan.reported_jobs(plan.chosen_options(store))]
    make(reported, "all methods")
    return reported
