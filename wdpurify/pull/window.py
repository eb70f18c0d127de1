"""Window: the last values of a figure, whose typical size a few outliers cannot move."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import moved

#: Values above so many medians count as so many: a broken batch or a learning-rate finder says nothing of a usual step.
OUTLIER = 5.0


class Window:
    """The last values of a figure, each with a weight, on the device of the latest.

    Args:
        size: how many values are remembered.
    """

    def __init__(self, size: int) -> None:
        self.rows = torch.full((2, size), torch.nan, dtype=torch.float32, device="cpu")

    def record(self, value: Tensor, *, weight: Tensor | float = 1.0, usable: Tensor | bool = True) -> None:
        """Remember a value.

        Args:
            value: scalar; one that is not finite says nothing.
            weight: scalar, at least 0; without weight a value says nothing.
            usable: whether the value says anything at all.
        """
        rows = moved(self.rows, value.device)
        row = torch.stack([value.to(rows), torch.as_tensor(weight, device=value.device).to(rows)])
        says = torch.isfinite(row).all() & (row[1] > 0) & usable
        self.rows = torch.where(says, torch.cat([rows[:, 1:], row[:, None]], dim=1), rows)

    def median(self, last: int | None = None) -> Tensor:
        """The median of the ``last`` values, of two in the middle the smaller; of all by default. NaN without a value."""
        return _median(self.rows[0] if last is None else self.rows[0, -last:])

    def mean(self) -> Tensor:
        """The weighted mean of all values, those above :data:`OUTLIER` medians counted as so many. NaN without a value.

        Zeros count in the mean and not in the median, or a task that is mostly solved would have a median of 0.
        """
        values, weights = self.rows
        clipped = torch.minimum(values, OUTLIER * _median(torch.where(values > 0, values, torch.nan)).nan_to_num())
        mean: Tensor = (clipped * weights).nansum() / weights.nansum()
        return mean

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"].clone()


def _median(values: Tensor) -> Tensor:
    ordered = values.sort().values  # NaN last
    middle = (ordered.isfinite().sum() - 1).clamp(min=0) // 2
    median: Tensor = ordered.gather(0, middle[None])[0]
    return median
