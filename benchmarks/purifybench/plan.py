"""Which runs a benchmark makes: the opponent tuned on validation rows of tuning seeds, then every method on every seed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from accelerate import PartialState

from .jobs import Job, TaskBuilder, run_jobs
from .methods import Method
from .results import ResultsStore
from .training import Settings

#: Candidates for the weight of the opponent's reversed gradient.
REVERSAL_WEIGHTS = (0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Plan:
    """The runs of one task.

    Attributes:
        task: name of the task.
        methods: names and constructors, in the order of the tables.
        opponent: the method whose weight is tuned.
        methods_wanted: names of the methods to run.
        backbones: names of networks.
        seeds, tuning_seeds: one run each; no reported seed takes part in tuning.
        settings: makes a run's settings from backbone and seed.
        data: what the data depend on beside task and seed.
        rename: what a method's row is called in the tables, from its usual name.
    """

    task: str
    methods: Mapping[str, Callable[..., Method]]
    opponent: str
    methods_wanted: Sequence[str]
    backbones: Sequence[str]
    seeds: Sequence[int]
    tuning_seeds: Sequence[int]
    settings: Callable[[str, int], Settings]
    data: Mapping[str, Any] = field(default_factory=dict)
    rename: Callable[[str], str] = str

    def tuning_jobs(self) -> Iterable[Job]:
        """Runs that choose the opponent's weight; they read validation data alone."""
        if self.opponent not in self.methods_wanted:
            return
        for backbone in self.backbones:
            for weight in REVERSAL_WEIGHTS:
                for seed in self.tuning_seeds:
                    chosen = self.settings(backbone, seed)
                    yield Job(self.task, self.opponent, chosen, options=(("weight", weight),), test=False, data=self.data)

    def chosen_weights(self, store: ResultsStore) -> dict[tuple[str, str], float]:
        """Best weight per backbone and validation set, by mean accuracy over the tuning seeds; of equals the smaller."""
        records = store.found(job.key() for job in self.tuning_jobs())
        best = {}
        for backbone in self.backbones:
            mine = [record for record in records if record["key"]["settings"]["backbone"] == backbone]
            for validation in mine[0]["accuracy"] if mine else ():
                score = {
                    weight: np.mean([r["accuracy"][validation] for r in mine if r["key"]["options"] == [["weight", weight]]])
                    for weight in REVERSAL_WEIGHTS
                }
                best[backbone, validation] = max(score, key=lambda weight: score[weight])
        return best

    def reported_jobs(self, weights: Mapping[tuple[str, str], float]) -> Iterable[Job]:
        """The runs of the table, seed by seed, so that an interrupted benchmark has whole seeds."""
        for backbone in self.backbones:
            for seed in self.seeds:
                for method in (name for name in self.methods if name in self.methods_wanted):
                    job = partial(Job, self.task, method, self.settings(backbone, seed), data=self.data)
                    if method != self.opponent:
                        yield job(row=self.rename(method))
                        continue
                    for validation, row in (("validation", method), ("oracle", f"{method}, oracle weight")):
                        if (backbone, validation) in weights:
                            yield job(options=(("weight", weights[backbone, validation]),), row=self.rename(row))


def carry_out(
    plans: Sequence[Plan], build_task: TaskBuilder, store: ResultsStore, *, workers: int, resume: bool, title: str
) -> list[Job]:
    """Choose the opponent's weights, then make every run.

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

    make([job for plan in plans for job in plan.tuning_jobs()], "choosing the opponent's weight")
    reported = [job for plan in plans for job in plan.reported_jobs(plan.chosen_weights(store))]
    make(reported, "all methods")
    return reported
