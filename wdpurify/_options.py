"""The keyword options of ``PurifyRegularizer``, typed once for the constructors that pass them on."""

from collections.abc import Callable
from typing import Literal, TypedDict

from torch import nn

from ._constraints import Constraint
from ._strength import Strength
from .functional import Toward

Objective = Literal["two-sided", "one-sided"]


class PurifyOptions(TypedDict, total=False):
    """See :class:`wdpurify.PurifyRegularizer` for what each means."""

    objective: Objective
    toward: Toward
    strength: float | Strength
    constraint: Constraint
    critic: nn.Module | Callable[[int, int], nn.Module]
    critic_lr: float
    critic_steps: int
    every: int
    update_statistics: bool
    across_ranks: bool
    seed: int
