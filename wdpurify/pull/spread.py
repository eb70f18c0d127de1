"""Spread: how much of it the features still have; a pull that is too strong shrinks them in place of mixing groups."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import moved

#: Share of the remembered spread that an acting iteration keeps: features can collapse within a few steps.
DECAY = 0.5
#: The same of what the largest is taken of, which one batch of strange rows must not raise.
STEADY_DECAY = 0.9
#: Acting iterations in which the largest falls by a factor of e: what features have lost by then they no longer miss.
MEMORY = 1000


class Spread:
    """The spread of the auxiliary features beside the largest that they have had lately.

    Attributes:
        value: the spread, averaged over the last acting iterations, scalar; 0 before the first.
        steady: the same over more of them.
        largest: the largest of `steady` so far, slowly forgotten, scalar.
    """

    def __init__(self) -> None:
        self.value, self.steady, self.largest = (torch.zeros((), dtype=torch.float32, device="cpu") for _ in range(3))

    @property
    def kept(self) -> Tensor:
        """The share that is left, in [0, 1]; 1 where there never was any spread."""
        share = (self.value / self.largest).clamp(max=1.0)
        return torch.where(self.largest > 0, share, torch.ones_like(self.value))

    def record(self, spread: Tensor, in_play: Tensor) -> None:
        """Record one batch.

        Args:
            spread: of its rows, scalar.
            in_play: which rows count, shape ``(batch,)``; fewer than two say nothing.
        """
        value, steady, largest = (moved(each, spread.device) for each in (self.value, self.steady, self.largest))
        found = spread.to(value)
        known = largest > 0
        says = in_play.sum() > 1
        self.value = torch.where(says, torch.where(known, torch.lerp(found, value, DECAY), found), value)
        self.steady = torch.where(says, torch.where(known, torch.lerp(found, steady, STEADY_DECAY), found), steady)
        self.largest = torch.where(says, torch.maximum(largest * (1.0 - 1.0 / MEMORY), self.steady), largest)

    def state_dict(self) -> dict[str, Any]:
        known = {"value": self.value, "steady": self.steady, "largest": self.largest}
        return {name: value.detach().cpu().clone() for name, value in known.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"].clone()
        self.steady = state["steady"].clone()
        self.largest = state["largest"].clone()
