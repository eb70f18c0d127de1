"""Gain: feedback control of the strength, which grows while the groups stay apart and no sign of harm appears."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import to_device

from .coherence import TOLERANCE

#: Largest change of the gain's logarithm per acting iteration, in either direction.
RATE = 0.02
#: Exponent of the features' remaining share of spread: a share of 0.85 halves the part of the gain above 1.
CARE = 4


class Gain:
    """Multiple of the strength.

    It grows by 2 % in each acting iteration with a separation above ``fade``, and falls for a separation below half of
    ``fade``. Two signs of harm reduce its part above 1: features that lose their spread, and a pull that is more coherent than
    the task gradient and therefore stronger at the parameters than the strength states.

    Attributes:
        value: the gain before this reduction, scalar, at least 1.
        applied: the last applied gain, scalar.
        at_limit: whether the gain has reached its largest value, scalar, bool.
    """

    def __init__(self) -> None:
        self.value = torch.ones((), dtype=torch.float32, device="cpu")
        self.applied = self.value
        self.at_limit = torch.zeros((), dtype=torch.bool, device="cpu")

    def record(self, separation: Tensor, *, fade: float, most: float) -> None:
        """Record an acting iteration.

        Args:
            separation: running mean of the separation, scalar.
            fade: ``fade`` of the strength; 0 disables the gain.
            most: largest value of the gain.
        """
        if fade > 0 and most > 1:
            error = (2.0 * separation / fade).clamp(0.0, 2.0) - 1.0
            self.value = (to_device(self.value, separation.device) * (RATE * error).exp()).clamp(1.0, most)
            self.at_limit = self.value >= most

    def apply(self, kept: Tensor, ratio: Tensor) -> Tensor:
        """Compute the applied gain, a multiple of the strength, scalar.

        Args:
            kept: present spread of the features over their largest spread, scalar.
            ratio: coherence of the pull over the task gradient's, scalar; a non-finite ratio, before the first measurement,
                gives a gain of 1.
        """
        ratio = ratio.nan_to_num(nan=TOLERANCE, posinf=TOLERANCE)
        room = kept**CARE * ((TOLERANCE - ratio) / (TOLERANCE - 1.0)).clamp(0.0, 1.0)
        self.applied = 1.0 + (to_device(self.value, kept.device) - 1.0) * room
        return self.applied

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"].clone()
