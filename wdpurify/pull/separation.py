"""Separation: how far apart the critic puts the groups of rows it has not learned from, beside what chance would give."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import moved

#: Share of the remembered separation that an acting iteration keeps: one batch of few rows says little.
DECAY = 0.9
#: A separation above so much of its largest has not come down.
HIGH = 0.75
#: Deviations from 0 within which 95 of 100 readings of chance lie.
DEVIATIONS = 1.96


class Separation:
    """The gap over the spread of the scores, averaged over the last acting iterations, from 0 on.

    The scale of features and critic plays no part. Many dimensions that carry noise slow the critic, and so what is read early
    in a run. It is to be recorded before the critic learns from a batch, or it would tell what is known of those rows by heart.

    Attributes:
        value: the average, scalar.
        largest: the largest average so far, scalar.
        variance: what the average has where the rows' labels are permuted at random, scalar.
    """

    def __init__(self) -> None:
        self.value = torch.zeros((), dtype=torch.float32, device="cpu")
        self.variance = torch.zeros((), dtype=torch.float32, device="cpu")
        self.largest = torch.zeros((), dtype=torch.float32, device="cpu")

    @property
    def chance(self) -> Tensor:
        """What 95 of 100 readings stay below in magnitude where labels say nothing of rows that the critic has not learned."""
        return DEVIATIONS * self.variance.sqrt()

    @property
    def is_high(self) -> Tensor:
        """Whether it is about as large as it ever was, scalar, bool."""
        return self.value > HIGH * self.largest

    def record(self, scores: Tensor, weights: Tensor, in_play: Tensor) -> None:
        """Record one batch; the arguments are those of :func:`relative_gap`, the scores detached."""
        gap, variance = relative_gap(scores.float(), weights, in_play)
        self.value = torch.lerp(moved(self.value, gap.device), gap, 1.0 - DECAY)
        self.largest = torch.maximum(moved(self.largest, gap.device), self.value)
        self.variance = DECAY**2 * moved(self.variance, gap.device) + (1.0 - DECAY) ** 2 * variance

    def state_dict(self) -> dict[str, Any]:
        known = {"value": self.value, "variance": self.variance, "largest": self.largest}
        return {name: value.detach().cpu().clone() for name, value in known.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"].clone()
        self.variance = state["variance"].clone()
        self.largest = state["largest"].clone()


def relative_gap(scores: Tensor, weights: Tensor, in_play: Tensor) -> tuple[Tensor, Tensor]:
    """The gap in standard deviations of the scores, and its variance over all permutations of the rows.

    Args:
        scores: critic outputs, shape ``(batch, n_groups)``.
        weights: what :func:`wdpurify.functional.gap_weights` makes of the rows' roles, of the same shape.
        in_play: which rows are of a group or of the population, bool, shape ``(batch,)``; others take no part.

    Returns:
        Two scalars; 0 where no group occurs. The mean over all permutations is 0.

    Source: the variance is that of a linear permutation statistic, Hoeffding 1951, Ann. Math. Stat. 22(4), Theorem 2.

    >>> relative_gap(torch.tensor([[2.0], [0.0]]), torch.tensor([[0.5], [-0.5]]), torch.tensor([True, True]))
    (tensor(1.), tensor(1.))
    """
    rows = in_play.to(scores.dtype)[:, None]
    count = rows.sum().clamp(min=2.0)
    weights = weights.to(scores.dtype)
    centred = (scores - (scores * rows).sum(0) / count) * rows
    tiny = torch.finfo(scores.dtype).tiny
    spread = (centred.square().sum(0) / count).sqrt().mean().clamp(min=tiny)
    # The columns of the weights have a mean of 0. Over pairs of rows: there are few, and there may be many groups.
    products = (centred @ weights.T).square().sum()
    return (centred * weights).sum() / spread, products / (count - 1.0) / spread.square().clamp(min=tiny)
