"""Types of ``PurifyRegularizer``'s keyword options, for every function that forwards them, and the paper's settings."""

from collections.abc import Callable
from functools import partial
from typing import TypedDict

from torch import nn

from .critic import Constraint, Critic, WeightClipping
from .features import Pool
from .pull import FixedStrength, Objective, OneSided, Strength


class PurifyOptions(TypedDict, total=False):
    """Keyword options; :class:`wdpurify.PurifyRegularizer` documents each."""

    objective: Objective
    strength: float | Strength
    constraint: Constraint
    critic: nn.Module | Callable[[int, int], nn.Module]
    critic_lr: float
    critic_steps: int
    scale_features: bool
    every: int
    pool: Pool
    update_statistics: bool
    seed: int


#: The paper's settings: one-sided, lambda_2 = 1, weights clipped to 0.1, one critic step per three iterations. The paper does
#: not state the critic's activation; here it is ReLU. Source: Li et al. 2021, arXiv:2102.10955, Alg. 1, Eq. 26 and Sec. IV-A.
PUBLISHED: PurifyOptions = {
    "objective": OneSided(),
    "strength": FixedStrength(1.0),
    "constraint": WeightClipping(0.1),
    "critic": partial(Critic, hidden=(512, 256, 10), activation=nn.ReLU),
    "critic_lr": 1e-3,
    "critic_steps": 1,
    "scale_features": False,
    "every": 3,
}
