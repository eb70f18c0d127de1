"""Spread: tracks the spread of the features, because a pull that is too strong shrinks them and does not mix groups."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import to_device

from .window import Window

#: Median windows, in acting iterations, of: the present spread (features can collapse within a few steps), the spread whose
#: maximum is tracked (a few outlier batches must not raise it), and the critic's unit of features.
NOW, STEADY, TYPICAL = 3, 19, 99
#: Time constant, in acting iterations, of the decay of that maximum.
MEMORY = 1000


class Spread:
    """The spread of the auxiliary features, and its ratio to its recent maximum.

    Attributes:
        value: the present spread, scalar; 0 before the first batch.
        typical: the median spread of many iterations, scalar; 0 before the first batch.
        largest: slowly decaying maximum of the smoothed spread, scalar.
        kept: ``value`` over ``largest``, in [0, 1]; 1 if every spread was 0.
    """

    def __init__(self) -> None:
        self._spreads = Window(TYPICAL)
        self.value, self.typical, self.largest = (torch.zeros((), dtype=torch.float32, device="cpu") for _ in range(3))
        self.kept = torch.ones((), dtype=torch.float32, device="cpu")

    def record(self, spread: Tensor, in_play: Tensor) -> None:
        """Record one batch.

        Args:
            spread: spread of its rows, scalar.
            in_play: mask of valid rows, shape ``(batch,)``; a batch with fewer than two is ignored.
        """
        usable = in_play.sum() > 1
        largest = to_device(self.largest, spread.device)
        self._spreads.record(torch.where(usable, spread, torch.nan))
        steady = self._spreads.median(STEADY).nan_to_num()
        self.largest = torch.where(usable, torch.maximum(largest * (1.0 - 1.0 / MEMORY), steady), largest)
        self._read()

    def state_dict(self) -> dict[str, Any]:
        return {**self._spreads.state_dict(), "largest": self.largest.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._spreads.load_state_dict(state)
        self.largest = state["largest"].clone()
        self._read()

    def _read(self) -> None:
        now = self._spreads.median(NOW)
        self.value = torch.where(now.isnan(), to_device(self.value, now.device), now)  # NaN without a batch of two valid rows
        self.typical = self._spreads.median().nan_to_num()
        self.kept = (self.value / self.largest).nan_to_num(nan=1.0, posinf=1.0).clamp(max=1.0)
