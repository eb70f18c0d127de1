"""Objectives of the pull: each class states the rows that it acts on and a formula of the critic's scores there."""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from wdpurify._checks import check_choice, check_object
from wdpurify.functional import Toward, group_gap, one_sided_loss


class Objective(Protocol):
    """Interface of an objective; a new objective is a class with these two members.

    Attributes:
        acts_on: ``"auxiliary"``: the gradient goes through the extractor at the auxiliary rows, whose batch has groups and
            population; ``"task"``: at the task's rows, which belong to no group.
    """

    @property
    def acts_on(self) -> Literal["auxiliary", "task"]: ...

    def __call__(self, scores: Tensor, groups: Tensor | None, population: Tensor | None) -> Tensor:
        """Map critic scores ``(batch, n_groups)`` to a scalar to minimise; groups and population are None on task rows."""
        ...


@dataclass(frozen=True)
class TwoSided:
    """Minimises the gap between the groups and the population through the extractor at the auxiliary rows.

    Source: Li et al. 2021, arXiv:2102.10955, Eq. 20-21.
    """

    @property
    def acts_on(self) -> Literal["auxiliary"]:
        return "auxiliary"

    def __call__(self, scores: Tensor, groups: Tensor | None, population: Tensor | None) -> Tensor:
        assert groups is not None
        assert population is not None
        return group_gap(scores, groups, population)


@dataclass(frozen=True)
class OneSided:
    """Shifts the task features along the critic's slope; the objective has no lower bound.

    Args:
        toward: ``"population"`` (Alg. 1), or ``"group"`` (Eq. 22 and 24), which destroys accuracy.

    Raises:
        ValueError: for any other direction.

    Source: Li et al. 2021, arXiv:2102.10955, Eq. 25.
    """

    toward: Toward = "population"

    def __post_init__(self) -> None:
        check_choice("toward", self.toward, ("population", "group"))

    @property
    def acts_on(self) -> Literal["task"]:
        return "task"

    def __call__(self, scores: Tensor, groups: Tensor | None, population: Tensor | None) -> Tensor:
        return one_sided_loss(scores, toward=self.toward)


def check_objective(objective: object) -> None:
    """Check the ``objective`` argument.

    Raises:
        TypeError, ValueError: if ``objective`` does not have the members of :class:`Objective`.
    """
    check_object("objective", objective, ("acts_on", "__call__"), "Give for example `TwoSided()`")
    check_choice("acts_on", getattr(objective, "acts_on", None), ("auxiliary", "task"))
