"""Spread: how much of it the features still have; a pull that is too strong shrinks them in place of mixing groups."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import moved
from wdpurify.functional import feature_spread

#: Share of the remembered spread that an acting iteration keeps: features can collapse within a few steps.
DECAY = 0.5


class Spread:
    """The spread of the auxiliary features beside the largest that they have had.

    Attributes:
        value: the spread, averaged over the last acting iterations, scalar; 0 before the first.
        largest: the largest average so far, scalar.
    """

    def __init__(self) -> None:
        self.value = torch.zeros((), dtype=torch.float32, device="cpu")
        self.largest = torch.zeros((), dtype=torch.float32, device="cpu")

    @property
    def kept(self) -> Tensor:
        """The share that is left, in [0, 1]; 1 where there never was any spread."""
        return torch.where(self.largest > 0, self.value / self.largest, torch.ones_like(self.value))

    def record(self, features: Tensor, in_play: Tensor) -> None:
        """Record one batch.

        Args:
            features: detached, shape ``(batch, dim)``, finite.
            in_play: which rows count, shape ``(batch,)``; fewer than two say nothing.
        """
        known = moved(self.value, features.device)
        largest = moved(self.largest, features.device)
        found = feature_spread(features, in_play).to(known)
        found = torch.where(largest > 0, torch.lerp(found, known, DECAY), found)
        self.value = torch.where(in_play.sum() > 1, found, known)
        self.largest = torch.maximum(largest, self.value)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value.detach().cpu().clone(), "largest": self.largest.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"].clone()
        self.largest = state["largest"].clone()
