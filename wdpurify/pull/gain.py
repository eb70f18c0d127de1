"""Gain: closes the loop of the strength. The pull grows while groups stay apart and nothing tells that it would harm."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import moved

from .coherence import TOLERANCE

#: What an acting iteration adds to the logarithm of the gain while groups are apart, and at most takes from it.
RATE = 0.02
#: Power of the share of their spread that features have kept: at 0.85 of it half of what the gain adds is left.
CARE = 4


class Gain:
    """How many times the strength the pull has.

    It grows by 2 % in each acting iteration in which the separation is above ``fade``, and falls where it is below half of
    that. What it adds to the strength is scaled down by two signs of harm: features that lose their spread, and a pull that is
    more coherent than the task gradient, so that more of it is left at the parameters than the strength says.

    Attributes:
        value: the gain without these, scalar, from 1 on.
        applied: the gain as it was last applied, scalar.
        at_limit: whether it has grown as far as it may, scalar, bool.
    """

    def __init__(self) -> None:
        self.value = torch.ones((), dtype=torch.float32, device="cpu")
        self.applied = self.value
        self.at_limit = torch.zeros((), dtype=torch.bool, device="cpu")

    def record(self, separation: Tensor, *, fade: float, most: float) -> None:
        """Record an acting iteration.

        Args:
            separation: as averaged by now, scalar.
            fade: of the strength; 0 leaves the gain as it is.
            most: the gain's largest value.
        """
        if fade > 0 and most > 1:
            error = (2.0 * separation / fade).clamp(0.0, 2.0) - 1.0
            self.value = (moved(self.value, separation.device) * (RATE * error).exp()).clamp(1.0, most)
            self.at_limit = self.value >= most

    def apply(self, kept: Tensor, ratio: Tensor) -> Tensor:
        """What to multiply the pull with, scalar.

        Args:
            kept: share of their spread that the features still have, scalar.
            ratio: how much more coherent the pull is than the task gradient, scalar; not finite where that is not known, and
                the gain is 1.
        """
        ratio = ratio.nan_to_num(nan=TOLERANCE, posinf=TOLERANCE)
        room = kept**CARE * ((TOLERANCE - ratio) / (TOLERANCE - 1.0)).clamp(0.0, 1.0)
        self.applied = 1.0 + (moved(self.value, kept.device) - 1.0) * room
        return self.applied

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"].clone()
