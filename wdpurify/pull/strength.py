"""How strongly the purify gradient pulls: a fixed factor, or a share of the task gradient."""

from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor

from wdpurify._checks import check_not_negative
from wdpurify._torch import moved

from .window import WeightedWindow

#: Iterations over which the task gradient is averaged: all of a short run, a window of a long one.
MEMORY = 1000


class Strength(Protocol):
    """What the regularizer asks of a strength.

    Attributes:
        value: what was asked for, at least 0; 0 only measures.
        needs_task_gradient: whether the factor stays 0 until a task gradient was recorded.
    """

    value: float
    needs_task_gradient: bool

    def factor(self, gradient_norm: Tensor, separation: Tensor, kept: Tensor) -> Tensor:
        """What to multiply a purify gradient with, a scalar tensor.

        Args:
            gradient_norm: of the purify gradient at the features, times how much more coherent it is than the task's.
            separation: the gap over the spread of the scores.
            kept: share of their largest spread that the features still have.
        """
        ...

    def record(self, task_norm: Tensor, weight: Tensor) -> None:
        """Record an iteration's task gradient.

        Args:
            task_norm: its norm at the features, in units of the unscaled loss; not finite if it is to be ignored.
            weight: by which factor the term was scaled in that iteration.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class FixedStrength:
    """The paper's lambda_2: the purify gradient times a number.

    Args:
        value: factor, at least 0; its effect depends on the scales of the critic and of the task loss.

    Source: Li et al. 2021, arXiv:2102.10955, Eq. 26.
    """

    needs_task_gradient = False

    def __init__(self, value: float = 1.0) -> None:
        self.value = check_not_negative("value", value)

    def factor(self, gradient_norm: Tensor, separation: Tensor, kept: Tensor) -> Tensor:
        return torch.full((), self.value, device=gradient_norm.device)

    def record(self, task_norm: Tensor, weight: Tensor) -> None:
        """A fixed factor needs none."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is remembered."""


class BalancedStrength:
    """The purify gradient scaled to a share of the task gradient at the features, fading as the groups come together.

    The applied gradient is ``value * min(1, separation / fade) * mean(||g_task||) * g / ||g||``: the scales of critic, loss,
    loss scaler and accumulation divisor cancel. W1 has a slope of 1 however close the groups are, so without the fade a
    share that is right at the start throws purified features about at the end; with it the objective is W1 far away and
    its square nearby (as in Huber's loss). A critic that is wrong by its own estimate (below 0) pulls nothing. Until a task
    gradient has been recorded the factor is 0. Give each regularizer an object of its own: it remembers that gradient.

    The mean is over the last 1,000 iterations: a pull that upsets the task makes the task gradient grow, and a quick memory
    would answer with a stronger pull still. Norms above five times their median count as so many, so a broken batch or a
    learning-rate finder is soon forgotten. Each iteration is weighed by the factor that the loop gave the term in it, so one
    in which the term hardly counted (a mixup loop that scales the first of two criteria) says hardly anything.

    Args:
        value: ratio of the norms while the groups are apart, at least 0. It holds in the iterations in which the term acts.
        fade: separation (gap over the standard deviation of the critic's scores, on rows that it has not learned from) below
            which the ratio falls linearly to 0, at least 0; 0 never fades.
        keep: share, in [0, 1], of their largest spread that the features are to keep: once they have less, the ratio falls
            linearly, to 0 at half of it. 0 does not look at it. A pull can bring groups together by shrinking the features to a
            point, from which a network may not come back.
        most: how many times ``value`` the ratio may become while the groups stay apart, at least 1; 1 holds it. It grows
            slowly, and only as far as the features keep their spread and the pull is no more coherent than the task gradient:
            ``metrics().gain``.

    Where the pull is more coherent than the task gradient, so that more of it is left below the features, the norm that comes
    in is as many times larger and the ratio as many times smaller: ``metrics().coherence_excess``.

    Attributes:
        task_norm: the memory, a scalar tensor; NaN until a task gradient was recorded.
    """

    needs_task_gradient = True

    def __init__(self, value: float = 0.5, *, fade: float = 0.2, keep: float = 0.5, most: float = 1.5) -> None:
        self.value = check_not_negative("value", value)
        self.fade = check_not_negative("fade", fade)
        self.keep = check_not_negative("keep", keep)
        self.most = check_not_negative("most", most)
        if most < 1:
            raise ValueError(f"`most` must be at least 1, so many times the strength may grow, got {most}")
        if keep > 1:
            raise ValueError(f"`keep` must be at most 1, the share of their spread that features are to keep, got {keep}")
        self._norms = WeightedWindow(MEMORY)
        self.task_norm = self._norms.mean()

    def factor(self, gradient_norm: Tensor, separation: Tensor, kept: Tensor) -> Tensor:
        norm = gradient_norm.float()
        known = moved(self.task_norm, norm.device)
        wanted = self.value * known / norm.clamp(min=torch.finfo(torch.float32).tiny)
        if self.fade > 0:
            wanted = wanted * (separation / self.fade).clamp(0.0, 1.0)
        if self.keep > 0:
            wanted = wanted * (2.0 * kept / self.keep - 1.0).clamp(0.0, 1.0)
        # A dead critic has no direction to give: 0 rather than a huge factor on rounding noise.
        return torch.where(torch.isfinite(wanted) & (norm > 0), wanted, torch.zeros_like(wanted))

    def record(self, task_norm: Tensor, weight: Tensor) -> None:
        # A step with an infinite gradient is one that a GradScaler skips: it teaches nothing.
        self._norms.record(task_norm, weight)
        self.task_norm = self._norms.mean()

    def state_dict(self) -> dict[str, Any]:
        return self._norms.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._norms.load_state_dict(state)
        self.task_norm = self._norms.mean()


def as_strength(strength: float | Strength) -> Strength:
    """A strength object as it is, a number as the value of a :class:`BalancedStrength`.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(strength, int | float | Real):
        return BalancedStrength(check_not_negative("strength", float(strength)))
    if not hasattr(strength, "factor"):
        raise TypeError(f"`strength` must be a number or a strength object, got {type(strength).__name__}")
    return strength
