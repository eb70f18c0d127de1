"""Separation: how far apart the critic puts the groups of rows it has not learned from, beside what chance would give."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import moved
from wdpurify.functional import gap_weights

#: Share of the remembered separation that an acting iteration keeps: one batch of few rows says little.
DECAY = 0.9
#: Deviations from 0 within which 95 of 100 readings of chance lie.
DEVIATIONS = 1.96


class Separation:
    """The gap over the spread of the scores, averaged over the last acting iterations, from 0 on.

    The scale of features and critic plays no part. Many dimensions that carry noise slow the critic, and so what is read early
    in a run. It is to be recorded before the critic learns from a batch, or it would tell what is known of those rows by heart.

    Attributes:
        value: the average, scalar.
        variance: what the average has where the rows' labels are permuted at random, scalar.
    """

    def __init__(self) -> None:
        self.value = torch.zeros((), dtype=torch.float32, device="cpu")
        self.variance = torch.zeros((), dtype=torch.float32, device="cpu")

    @property
    def chance(self) -> Tensor:
        """What 95 of 100 readings stay below in magnitude where labels say nothing of rows that the critic has not learned."""
        return DEVIATIONS * self.variance.sqrt()

    def record(self, scores: Tensor, groups: Tensor, population: Tensor) -> None:
        """Record one batch.

        Args:
            scores: detached critic outputs, shape ``(batch, n_groups)``.
            groups: group index of each row, -1 for none, shape ``(batch,)``.
            population: whether a row stands for the whole set, shape ``(batch,)``.
        """
        gap, variance = relative_gap(scores.float(), groups, population)
        self.value = torch.lerp(moved(self.value, gap.device), gap, 1.0 - DECAY)
        self.variance = DECAY**2 * moved(self.variance, gap.device) + (1.0 - DECAY) ** 2 * variance

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value.detach().cpu().clone(), "variance": self.variance.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"].clone()
        self.variance = state["variance"].clone()


def relative_gap(scores: Tensor, groups: Tensor, population: Tensor) -> tuple[Tensor, Tensor]:
    """The gap in standard deviations of the scores, and its variance over all permutations of the rows.

    Rows that are neither of a group nor of the population take no part.

    Args:
        scores: critic outputs, shape ``(batch, n_groups)``.
        groups: group index of each row, int64, shape ``(batch,)``; -1 for none.
        population: whether a row stands for the whole set, bool, shape ``(batch,)``.

    Returns:
        Two scalars; 0 where no group occurs. The mean over all permutations is 0.

    Source: the variance is that of a linear permutation statistic, Hoeffding 1951, Ann. Math. Stat. 22(4), Theorem 2.

    >>> relative_gap(torch.tensor([[2.0], [0.0]]), torch.tensor([0, -1]), torch.tensor([True, True]))
    (tensor(1.), tensor(1.))
    """
    in_play = (population | (groups >= 0)).to(scores.dtype)[:, None]
    count = in_play.sum().clamp(min=2.0)
    weights = gap_weights(groups, population, scores.shape[1]).to(scores.dtype)
    centred = (scores - (scores * in_play).sum(0) / count) * in_play
    tiny = torch.finfo(scores.dtype).tiny
    spread = (centred.square().sum(0) / count).sqrt().mean().clamp(min=tiny)
    # The columns of the weights have a mean of 0. Over pairs of rows: there are few, and there may be many groups.
    products = (centred @ weights.T).square().sum()
    return (centred * weights).sum() / spread, products / (count - 1.0) / spread.square().clamp(min=tiny)
