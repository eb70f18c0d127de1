"""The paper's own settings, to the letter."""

from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from .critic import Critic, WeightClipping
from .pull import FixedStrength, OneSided

if TYPE_CHECKING:
    from ._options import PurifyOptions

#: One-sided, lambda_2 = 1, weights clipped to 0.1, one critic step per three iterations. What the paper does not state, the
#: critic's activation, is ReLU. Source: Li et al. 2021, arXiv:2102.10955, Alg. 1, Eq. 26 and Sec. IV-A.
PUBLISHED: "PurifyOptions" = {
    "objective": OneSided(),
    "strength": FixedStrength(1.0),
    "constraint": WeightClipping(0.1),
    "critic": partial(Critic, hidden=(512, 256, 10), activation=nn.ReLU),
    "critic_lr": 1e-3,
    "critic_steps": 1,
}
