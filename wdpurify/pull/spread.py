"""Spread: how much of it the features still have; a pull that is too strong shrinks them in place of mixing groups."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import moved

from .window import Window

#: Acting iterations whose median is the spread now (features can collapse within a few steps), the spread whose largest is
#: remembered (a few strange batches must not raise it), and the spread in whose units the critic reads features.
NOW, STEADY, TYPICAL = 3, 19, 99
#: Acting iterations in which the largest falls by a factor of e: what features have lost by then they no longer miss.
MEMORY = 1000


class Spread:
    """The spread of the auxiliary features beside the largest that they have had lately.

    Attributes:
        value: the spread now, scalar; 0 before the first.
        typical: the spread of many iterations, scalar; 0 before the first.
        largest: the largest of the steady spread so far, slowly forgotten, scalar.
        kept: share of the largest that is left, in [0, 1]; 1 where there never was any spread.
    """

    def __init__(self) -> None:
        self._spreads = Window(TYPICAL)
        self.value, self.typical, self.largest = (torch.zeros((), dtype=torch.float32, device="cpu") for _ in range(3))
        self.kept = torch.ones((), dtype=torch.float32, device="cpu")

    def record(self, spread: Tensor, in_play: Tensor) -> None:
        """Record one batch.

        Args:
            spread: of its rows, scalar.
            in_play: which rows count, shape ``(batch,)``; fewer than two say nothing.
        """
        says = in_play.sum() > 1
        largest = moved(self.largest, spread.device)
        self._spreads.record(torch.where(says, spread, torch.nan))
        steady = self._spreads.median(STEADY).nan_to_num()
        self.largest = torch.where(says, torch.maximum(largest * (1.0 - 1.0 / MEMORY), steady), largest)
        self._read()

    def state_dict(self) -> dict[str, Any]:
        return {**self._spreads.state_dict(), "largest": self.largest.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._spreads.load_state_dict(state)
        self.largest = state["largest"].clone()
        self._read()

    def _read(self) -> None:
        now = self._spreads.median(NOW)
        self.value = torch.where(now.isnan(), moved(self.value, now.device), now)  # batches of a row say nothing, however many
        self.typical = self._spreads.median().nan_to_num()
        self.kept = (self.value / self.largest).nan_to_num(nan=1.0, posinf=1.0).clamp(max=1.0)
