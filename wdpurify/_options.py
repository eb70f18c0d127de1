"""The keyword options of ``PurifyRegularizer``, typed once for the constructors that pass them on."""

from collections.abc import Callable
from typing import TypedDict

from torch import nn

from .critic.constraints import Constraint
from .features.pooling import Pool
from .pull.objectives import Objective
from .pull.strength import Strength


class PurifyOptions(TypedDict, total=False):
    """See :class:`wdpurify.PurifyRegularizer` for what each means."""

    objective: Objective
    strength: float | Strength
    constraint: Constraint
    critic: nn.Module | Callable[[int, int], nn.Module]
    critic_lr: float
    critic_steps: int
    every: int
    pool: Pool
    update_statistics: bool
    seed: int
