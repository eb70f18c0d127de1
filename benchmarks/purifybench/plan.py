"""Which runs a benchmark makes: the opponent tuned on validation rows of tuning seeds, then every method on every seed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .jobs import Job
from .methods import Method
from .report import BASELINE
from .results import Record, ResultsStore
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
        wanted: names of the methods to run; all where empty. Goal 1 is always among them.
        backbones: names of networks.
        seeds, tuning_seeds: one run each; no reported seed takes part in tuning.
        settings: makes a run's settings from backbone and seed.
    """

    task: str
    methods: Mapping[str, Callable[..., Method]]
    opponent: str
    wanted: Sequence[str]
    backbones: Sequence[str]
    seeds: Sequence[int]
    tuning_seeds: Sequence[int]
    settings: Callable[[str, int], Settings]

    def tuning_jobs(self) -> Iterable[Job]:
        """Runs that choose the opponent's weight; they read validation data alone."""
        if self.wanted and self.opponent not in self.wanted:
            return
        for backbone in self.backbones:
            for weight in REVERSAL_WEIGHTS:
                for seed in self.tuning_seeds:
                    chosen = self.settings(backbone, seed)
                    yield Job(self.task, self.opponent, chosen, options=(("weight", weight),), test=False)

    def chosen_weights(self, store: ResultsStore, data: dict[str, Any]) -> dict[tuple[str, str], float]:
        """Best weight per backbone and validation set, by mean accuracy over the tuning seeds; of equals the smaller."""
        records: list[Record] = [found for job in self.tuning_jobs() if (found := store.find(job.key(data))) is not None]
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
        wanted = [name for name in self.methods if not self.wanted or name in (*self.wanted, BASELINE)]
        for backbone in self.backbones:
            for seed in self.seeds:
                for method in wanted:
                    job = partial(Job, self.task, method, self.settings(backbone, seed))
                    if method != self.opponent:
                        yield job()
                        continue
                    for validation, row in (("validation", method), ("oracle", f"{method}, oracle weight")):
                        if (backbone, validation) in weights:
                            yield job(options=(("weight", weights[backbone, validation]),), row=row)
