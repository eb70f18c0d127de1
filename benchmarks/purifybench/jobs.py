"""Many runs: which a benchmark makes, doing them side by side on the cores at hand, and keeping what they give.

Methods that declare a grid are tuned on validation data; then every method runs on every seed.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from joblib import Parallel, delayed, parallel_config
from rich.console import RenderableType
from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, TimeElapsedColumn

from wdpurify._findings import FINDINGS
from wdpurify.exceptions import PurifyWarning

from .methods import METHODS, Methods, Options, candidates
from .results import Record, ResultsStore, grouped, key_digest
from .tasks import Task
from .training import Settings, describe, train


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        task: name of the task, understood by the benchmark's `build_task`.
        method: a name of `METHODS`, or of the methods given to `run_jobs`.
        settings: steps, rates, backbone, seed.
        options: options of the method beside those of `METHODS`, as sorted pairs.
        row: what to call the run in tables, where that is not the method's name.
        test: read the test sets; without it the run only serves to choose an option.
        data: what the data depend on beside the task's name and the seed, as plain values.
    """

    task: str
    method: str
    settings: Settings
    options: tuple[tuple[str, Any], ...] = ()
    row: str = ""
    test: bool = True
    data: Mapping[str, Any] = field(default_factory=dict)

    def key(self) -> dict[str, Any]:
        """What the run depends on, as plain values."""
        written = asdict(self) | {"settings": describe(self.settings), "row": self.row or self.method}
        return json.loads(json.dumps(written, default=str))


#: Builds the task of a job.
TaskBuilder = Callable[[Job], Task]
#: Best options by backbone, method and the validation set that chose them.
Chosen = Mapping[tuple[str, str, str], Options]


@dataclass(frozen=True)
class Plan:
    """The runs of one task.

    Attributes:
        task: name of the task.
        methods: names and constructors of those to run, in the order of the tables.
        backbones: names of networks.
        seeds: one run each.
        settings: of every run, but for its backbone and seed.
        tuning_seeds: of the runs that choose options; no reported seed takes part.
        chosen_by: validation sets that choose options, each for a row of its own.
        data: what the data depend on beside task and seed.
        rename: what a method's row is called in the tables, from its usual name.
        test: read the test sets; without it the runs are judged by validation rows, to choose a default.
    """

    task: str
    methods: Methods
    backbones: Sequence[str]
    seeds: Sequence[int]
    settings: Settings
    tuning_seeds: Sequence[int] = ()
    chosen_by: Sequence[str] = ("validation", "oracle")
    data: Mapping[str, Any] = field(default_factory=dict)
    rename: Callable[[str], str] = str
    test: bool = True

    def tuning_jobs(self) -> Iterable[Job]:
        """Runs that choose the options of the methods that declare a grid; they read validation data alone."""
        for backbone in self.backbones:
            for method, make in self.methods.items():
                for seed in self.tuning_seeds:  # outside, as a task is built once per seed
                    settings = replace(self.settings, backbone=backbone, seed=seed)
                    for options in candidates(make):
                        yield Job(self.task, method, settings, options=options, test=False, data=self.data)

    def chosen_options(self, store: ResultsStore) -> Chosen:
        """The best options by mean accuracy over the tuning seeds; of equals those that the grid has first."""
        by_run = grouped(store.found(job.key() for job in self.tuning_jobs()), "backbone", "method")
        return {
            (backbone, method, validation): _best(candidates(self.methods[method]), records, validation)
            for (backbone, method), records in by_run.items()
            for validation in records[0]["accuracy"]
        }

    def reported_jobs(self, chosen: Chosen) -> Iterable[Job]:
        """The runs of the table, seed by seed, so that an interrupted benchmark has whole seeds."""
        for backbone in self.backbones:
            for seed in self.seeds:
                settings = replace(self.settings, backbone=backbone, seed=seed)
                for method, make in self.methods.items():
                    job = partial(Job, self.task, method, settings, data=self.data, test=self.test)
                    if not candidates(make):
                        yield job(row=self.rename(method))
                        continue
                    for validation in self.chosen_by:
                        if (backbone, method, validation) in chosen:
                            options = chosen[backbone, method, validation]
                            yield job(options=options, row=self.rename(_row(method, options, validation)))


def _best(grid: Sequence[Options], records: Sequence[Record], validation: str) -> Options:
    """The point of a grid whose runs have the highest mean accuracy on a validation set."""

    def score(options: Options) -> float:
        stored = json.loads(json.dumps(options))
        return float(np.mean([run["accuracy"][validation] for run in records if run["key"]["options"] == stored]))

    return max(grid, key=score)


def _row(method: str, options: Options, validation: str) -> str:
    """A tuned method under its own name; one whose options were chosen by data that no user has says so."""
    return method if validation == "validation" else f"{method}, oracle {' and '.join(name for name, _ in options)}"


def run_jobs(
    jobs: Iterable[Job],
    build_task: TaskBuilder,
    store: ResultsStore,
    *,
    workers: int,
    title: str,
    methods: Methods = METHODS,
    above: Callable[[], RenderableType] | None = None,
) -> None:
    """Do every job that the store has no record of, and add its record.

    Under `accelerate launch` with several processes each takes its share of the jobs; otherwise `workers` processes of one
    thread each share them. Progress shows on the main process.

    Args:
        jobs: the runs.
        build_task: must be importable by name, as worker processes call it.
        store: where records go.
        workers: processes on a CPU; ignored on a GPU, which one run fills.
        title: what the progress bar says.
        methods: what the jobs' method names mean.
        above: makes what is shown above the progress bar, anew after each run; both go at the end.
    """
    state = PartialState()
    # Shares first, then what is left of one's own: another process may already be adding records.
    share = list(jobs)[state.process_index :: state.num_processes]
    done = {key_digest(record["key"]) for record in store.records()}
    mine = [job for job in share if key_digest(job.key()) not in done]
    run = partial(_run, build_task=build_task, methods=dict(methods), folder=str(store.path.parent))
    columns = *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()
    with _Progress(*columns, above=above, disable=not (mine and state.is_main_process)) as progress:
        bar = progress.add_task(title, total=len(mine))
        alone = state.num_processes > 1 or state.device.type != "cpu" or workers == 1
        # Several processes with several threads each on few cores run ten times slower than with one.
        with parallel_config("loky", n_jobs=1 if alone else workers, inner_max_num_threads=1):
            for record in Parallel(return_as="generator_unordered")(delayed(run)(job) for job in mine):
                store.add(record)
                progress.advance(bar)
    state.wait_for_everyone()


class _Progress(Progress):
    """A progress bar with something above it."""

    def __init__(self, *columns: ProgressColumn, above: Callable[[], RenderableType] | None, disable: bool) -> None:
        self._above = above
        super().__init__(*columns, disable=disable, transient=above is not None, refresh_per_second=2 if above else 10)

    def get_renderables(self) -> Iterator[RenderableType]:
        if self._above is not None:
            yield self._above()
        yield from super().get_renderables()


#: The task last built in this process, by what it depends on; jobs come seed by seed, so one is enough.
_built: dict[str, Task] = {}


def _task(job: Job, build_task: TaskBuilder) -> Task:
    wanted = json.dumps([job.task, job.settings.seed, job.data], default=str)
    if wanted not in _built:
        _built.clear()
        _built[wanted] = build_task(job)
    return _built[wanted]


def _run(job: Job, *, build_task: TaskBuilder, methods: Methods, folder: str) -> Record:
    key = job.key()
    task = _task(job, build_task)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PurifyWarning)
        outcome = train(
            task,
            partial(methods[job.method], **dict(job.options)),
            job.settings,
            device=PartialState().device,
            on_upper=job.method == "upper bound",
            test=job.test,
            checkpoint=Path(folder) / "checkpoints" / f"{key_digest(key)}.pt",
        )
    for warning in caught:
        if not issubclass(warning.category, PurifyWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    found = sorted({_finding(warning) for warning in caught if issubclass(warning.category, PurifyWarning)})
    return {"key": key} | asdict(outcome) | {"warnings": found}


def _finding(warning: warnings.WarningMessage) -> str:
    """A few words for what a warning says: the name of the finding, or the warning's class."""
    said = str(warning.message)
    named = (name for name, finding in FINDINGS.items() if said.startswith(finding.what.partition("{")[0] or finding.what))
    return next(named, warning.category.__name__)
