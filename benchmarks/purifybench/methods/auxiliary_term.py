"""The base of methods with a term on auxiliary rows in every step, and how these rows are drawn."""

from typing import Any

from purifybench.tasks import Task
from purifybench.tasks._types import to_float
from torch import Tensor

from wdpurify import GroupSampler

from ._types import Run
from .plain import Plain

#: Auxiliary rows per step of the methods that have a term on them, twice as many as purifying has.
BATCH_SIZE = 64


def auxiliary_sampler(task: Task, batch_size: int, seed: int, *, balance: bool = False, **options: Any) -> GroupSampler:
    """Draws of a task's auxiliary rows.

    Args:
        task: whose.
        batch_size: rows per draw.
        seed: of the draws.
        balance: draw evenly over the cells of group and class, for a task whose auxiliary rows have classes.
        **options: of `GroupSampler`, such as other ``groups``.
    """
    rows = task.auxiliary
    usual = {"groups": rows.groups, "balance": rows.classes if balance else None, "transform": to_float}
    # Each process trains a run of its own.
    return GroupSampler(rows.images, batch_size=batch_size, seed=seed, rank=0, world_size=1, **{**usual, **options})


class AuxiliaryTerm(Plain):
    """The task loss and a weighted term on auxiliary rows, in every step.

    Auxiliary rows update BatchNorm statistics, as in a loop that runs them through the network like any others.

    Args:
        run: as for every method.
        weight: factor of the term.
        batch_size: auxiliary rows per step.
        balance: see `auxiliary_sampler`.
    """

    def __init__(self, run: Run, *, weight: float = 1.0, batch_size: int = BATCH_SIZE, balance: bool = False) -> None:
        super().__init__(run)
        self.weight = weight
        self.sampler = auxiliary_sampler(run.task, batch_size, run.seed, balance=balance)

    def term(self, features: Tensor, groups: Tensor) -> Tensor:
        """The term of auxiliary features ``(rows, dim)`` and their groups ``(rows,)``, a scalar."""
        raise NotImplementedError

    def auxiliary_features(self, images: Tensor) -> Tensor:
        """Features of auxiliary rows."""
        features: Tensor = self.network.features(images)
        return features

    def auxiliary_loss(self) -> Tensor:
        """The term of the next auxiliary rows."""
        batch = self.sampler.next_batch()
        return self.term(self.auxiliary_features(batch.images.to(self.run.device)), batch.groups.to(self.run.device))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        auxiliary = self.auxiliary_loss()  # first, so that the task's rows leave the fresher BatchNorm statistics
        return super().loss(images, labels) + self.weight * auxiliary

    def state_dict(self) -> dict[str, Any]:
        return {"sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state["sampler"])
