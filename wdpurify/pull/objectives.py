"""What the pull minimises. An objective is one class: where it acts, and a formula of the critic's scores there."""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from wdpurify._checks import check_choice
from wdpurify.functional import Toward, group_gap, one_sided_loss


class Objective(Protocol):
    """What the regularizer asks of an objective; to add one, write a class with these two members.

    Attributes:
        acts_on: ``"auxiliary"``: its gradient goes through the extractor at the auxiliary rows, in whose batch groups and
            population are known; ``"task"``: at the task's rows, which belong to no group.
    """

    @property
    def acts_on(self) -> Literal["auxiliary", "task"]: ...

    def __call__(self, scores: Tensor, groups: Tensor | None, population: Tensor | None) -> Tensor:
        """A scalar to minimise, of critic scores ``(batch, n_groups)``; groups and population are None on task rows."""
        ...


@dataclass(frozen=True)
class TwoSided:
    """The gap between the groups and the population, minimised through the extractor at the auxiliary rows.

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
    """The task features moved along the critic; it has no lower bound.

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
    """Refuse what is no objective.

    Raises:
        TypeError: with what to write instead.
    """
    if not callable(objective) or getattr(objective, "acts_on", None) not in ("auxiliary", "task"):
        raise TypeError(f"`objective` must be an objective such as TwoSided() or OneSided(), got {objective!r}")
