"""Separation: the critic's gap between groups on rows before it trains on them, and the gap that chance would cause."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import to_device

#: Decay of the running mean per acting iteration: the gap of one batch of few rows is noisy.
DECAY = 0.9
#: Share of its maximum above which a separation counts as high.
HIGH = 0.75
#: z-score of a two-sided 95 % interval.
DEVIATIONS = 1.96


class Separation:
    """Running mean, which starts at 0, of the gap over the spread of the scores.

    It does not depend on the scale of features and critic. With many noise dimensions the critic learns slowly, so the first
    values of a run are too small. Record a batch before the critic trains on it, or overfitting inflates the value.

    Attributes:
        value: the running mean, scalar.
        largest: maximum of the running mean, scalar.
        variance: variance of the running mean under random permutations of the rows' labels, scalar.
    """

    def __init__(self) -> None:
        self.value = torch.zeros((), dtype=torch.float32, device="cpu")
        self.variance = torch.zeros((), dtype=torch.float32, device="cpu")
        self.largest = torch.zeros((), dtype=torch.float32, device="cpu")

    @property
    def chance(self) -> Tensor:
        """Bound of the magnitude of 95 % of the values if the labels are independent of the rows."""
        return DEVIATIONS * self.variance.sqrt()

    @property
    def is_high(self) -> Tensor:
        """Whether the value is close to its maximum, scalar, bool."""
        return self.value > HIGH * self.largest

    def record(self, scores: Tensor, weights: Tensor, in_play: Tensor) -> None:
        """Record one batch; the arguments are as in :func:`relative_gap`, with detached scores."""
        gap, variance = relative_gap(scores.float(), weights, in_play)
        self.value = torch.lerp(to_device(self.value, gap.device), gap, 1.0 - DECAY)
        self.largest = torch.maximum(to_device(self.largest, gap.device), self.value)
        self.variance = DECAY**2 * to_device(self.variance, gap.device) + (1.0 - DECAY) ** 2 * variance

    def state_dict(self) -> dict[str, Any]:
        figures = {"value": self.value, "variance": self.variance, "largest": self.largest}
        return {name: value.detach().cpu().clone() for name, value in figures.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"].clone()
        self.variance = state["variance"].clone()
        self.largest = state["largest"].clone()


def relative_gap(scores: Tensor, weights: Tensor, in_play: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gap in standard deviations of the scores, and its variance over all permutations of the rows.

    Args:
        scores: critic outputs, shape ``(batch, n_groups)``.
        weights: result of :func:`wdpurify.functional.gap_weights` for the rows' roles, of the same shape.
        in_play: mask of the rows in a group or in the population, bool, shape ``(batch,)``; other rows have no effect.

    Returns:
        Two scalars; 0 if no group occurs. The mean over all permutations is 0.

    Source: variance of a linear permutation statistic, Hoeffding 1951, Ann. Math. Stat. 22(4), Theorem 2.

    >>> relative_gap(torch.tensor([[2.0], [0.0]]), torch.tensor([[0.5], [-0.5]]), torch.tensor([True, True]))
    (tensor(1.), tensor(1.))
    """
    rows = in_play.to(scores.dtype)[:, None]
    count = rows.sum().clamp(min=2.0)
    weights = weights.to(scores.dtype)
    centred = (scores - (scores * rows).sum(0) / count) * rows
    tiny = torch.finfo(scores.dtype).tiny
    spread = (centred.square().sum(0) / count).sqrt().mean().clamp(min=tiny)
    # The columns of the weights have a mean of 0. Pairs of rows, because a batch has few rows and may have many groups.
    products = (centred @ weights.T).square().sum()
    return (centred * weights).sum() / spread, products / (count - 1.0) / spread.square().clamp(min=tiny)
