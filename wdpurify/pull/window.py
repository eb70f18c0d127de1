"""Window: the last values of a figure, whose typical size a few outliers cannot move."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import moved

#: Values above so many medians count as so many: a broken batch or a learning-rate finder says nothing of a usual step.
OUTLIER = 5.0


class Window:
    """The last values of a figure, on the device of the latest; NaN where a value says nothing.

    Args:
        size: how many values are remembered.
    """

    def __init__(self, size: int) -> None:
        self.values = torch.full((size,), torch.nan, dtype=torch.float32, device="cpu")

    def record(self, value: Tensor) -> None:
        """Remember a value, scalar or of shape ``(1,)``."""
        values = moved(self.values, value.device)
        self.values = torch.cat([values[1:], value.reshape(1).to(values)])

    def median(self, last: int | None = None) -> Tensor:
        """The median of the ``last`` values, of two in the middle the smaller; of all by default. NaN without a value."""
        return torch.nanmedian(self.values if last is None else self.values[-last:])

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = state["values"].clone()


class WeightedWindow:
    """The last values of a figure, each with a weight.

    Args:
        size: how many values are remembered.
    """

    def __init__(self, size: int) -> None:
        self._values = Window(size)
        self._weights = Window(size)

    def record(self, value: Tensor, weight: Tensor) -> None:
        """Remember a value, scalar; one that is not finite, or has no weight above 0, says nothing."""
        says = torch.isfinite(value * weight) & (weight > 0)
        self._values.record(torch.where(says, value, torch.nan))
        self._weights.record(torch.where(says, weight, torch.nan))

    def mean(self) -> Tensor:
        """The weighted mean of all values, those above :data:`OUTLIER` medians counted as so many. NaN without a value.

        Zeros count in the mean and not in the median, or a task that is mostly solved would have a median of 0.
        """
        values, weights = self._values.values, self._weights.values
        limit = OUTLIER * torch.nanmedian(torch.where(values > 0, values, torch.nan))
        mean: Tensor = (torch.fmin(values, limit) * weights).nansum() / weights.nansum()
        return mean

    def state_dict(self) -> dict[str, Any]:
        return {"values": self._values.state_dict()["values"], "weights": self._weights.state_dict()["values"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._values.load_state_dict({"values": state["values"]})
        self._weights.load_state_dict({"values": state["weights"]})
