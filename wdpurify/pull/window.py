"""Window: the last values of a metric, with averages that a few outliers hardly change."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import to_device

#: Largest value in the mean, in medians: a broken batch or a learning-rate finder must not dominate it.
OUTLIER = 5.0


class Window:
    """The last values of a metric, on the device of the latest value; NaN marks an unusable value.

    Args:
        size: number of values.
    """

    def __init__(self, size: int) -> None:
        self.values = torch.full((size,), torch.nan, dtype=torch.float32, device="cpu")

    def record(self, value: Tensor) -> None:
        """Append a value, scalar or of shape ``(1,)``, and drop the oldest."""
        values = to_device(self.values, value.device)
        self.values = torch.cat([values[1:], value.reshape(1).to(values)])

    def median(self, last: int | None = None) -> Tensor:
        """Compute the lower median of the ``last`` values, by default of all; NaN without a value."""
        return torch.nanmedian(self.values if last is None else self.values[-last:])

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = state["values"].clone()


class WeightedWindow:
    """The last values of a metric, each with a weight.

    Args:
        size: number of values.
    """

    def __init__(self, size: int) -> None:
        self._pairs = torch.full((2, size), torch.nan, dtype=torch.float32, device="cpu")  # values above, weights below

    def record(self, value: Tensor, weight: Tensor) -> None:
        """Append a scalar value; the mean ignores non-finite values and values without a positive weight."""
        usable = ((value * weight).abs() < torch.inf) & (weight > 0)
        pair = torch.where(usable, torch.stack([value, weight.to(value)]), torch.nan)
        self._pairs = torch.cat([to_device(self._pairs, value.device)[:, 1:], pair.to(self._pairs.dtype)[:, None]], dim=1)

    def mean(self) -> Tensor:
        """Compute the weighted mean of all values, clipped to :data:`OUTLIER` medians; NaN without a value.

        The median ignores zeros, because a mostly solved task would otherwise have a median of 0; the mean includes them.
        """
        values, weights = self._pairs.unbind()
        limit = OUTLIER * torch.nanmedian(torch.where(values > 0, values, torch.nan))
        mean: Tensor = (torch.fmin(values, limit) * weights).nansum() / weights.nansum()
        return mean

    def state_dict(self) -> dict[str, Any]:
        values, weights = self._pairs.detach().cpu()
        return {"values": values.clone(), "weights": weights.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pairs = torch.stack([state["values"], state["weights"]])
