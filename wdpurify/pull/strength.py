"""Strengths of the purify gradient: a fixed factor, or a share of the task gradient."""

from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor

from wdpurify._checks import check_not_negative, check_object
from wdpurify._torch import to_device

from .window import WeightedWindow

#: Window of the mean task gradient norm, in iterations; a shorter run averages all its iterations.
MEMORY = 1000


class Strength(Protocol):
    """Interface of a strength.

    Attributes:
        value: the user's setting, at least 0; with 0 the regularizer only measures.
        needs_task_gradient: whether the factor stays 0 until the first :meth:`record`.
    """

    value: float
    needs_task_gradient: bool

    def factor(self, gradient_norm: Tensor, separation: Tensor, kept: Tensor) -> Tensor:
        """Compute the factor of a purify gradient, a scalar tensor.

        Args:
            gradient_norm: norm of the purify gradient at the features; with ``needs_task_gradient`` times its excess coherence.
            separation: the gap over the spread of the scores.
            kept: present spread of the features over their largest spread.
        """
        ...

    def record(self, task_norm: Tensor, weight: Tensor) -> None:
        """Record an iteration's task gradient.

        Args:
            task_norm: its norm at the features, in units of the unscaled loss; a non-finite norm is ignored.
            weight: factor by which the loop scaled the term in that iteration.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class FixedStrength:
    """Multiplies the purify gradient by a number, the paper's lambda_2.

    Args:
        value: factor, at least 0; its effect depends on the scales of the critic and of the task loss.

    Source: Li et al. 2021, arXiv:2102.10955, Eq. 26.
    """

    needs_task_gradient = False

    def __init__(self, value: float = 1.0) -> None:
        self.value = check_not_negative("value", value)

    def __repr__(self) -> str:
        return f"FixedStrength({self.value})"

    def factor(self, gradient_norm: Tensor, separation: Tensor, kept: Tensor) -> Tensor:
        return torch.full((), self.value, device=gradient_norm.device)

    def record(self, task_norm: Tensor, weight: Tensor) -> None:
        """Do nothing: a fixed factor does not depend on the task gradient."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: a fixed factor has no state."""


class BalancedStrength:
    """Scales the purify gradient to a share of the task gradient at the features, which fades as the groups come together.

    The applied gradient is ``value * min(1, separation / fade) * mean(||g_task||) * g / ||g||``: the scales of critic, loss,
    loss scaler and accumulation divisor cancel. W1 has a slope of 1 at any distance of the groups. So without the fade, a
    share that suits the start makes purified features oscillate at the end. With the fade, the objective is W1 for distant
    groups and its square for close ones (as in Huber's loss). A critic with a negative gap pulls nothing. The factor is 0
    until the first task gradient. The object stores that gradient's running mean, so give each regularizer a separate object.

    The mean covers the last 1,000 iterations. It is long on purpose: a short one would follow a growing task gradient and
    strengthen a pull that is already harmful. Norms above five times their median count as five medians, so a broken batch or
    a learning-rate finder has little effect. The weight of each iteration is the factor of the term in the loss. So an
    iteration with a small factor (a mixup loop that scales the first of two criteria) has little effect.

    Args:
        value: ratio of the norms while the groups are apart, at least 0. It holds in the iterations in which the term acts.
        fade: separation (gap over the standard deviation of the critic's scores, on rows before the critic trains on them)
            below which the ratio falls linearly to 0, at least 0; 0 never fades.
        keep: smallest share, in [0, 1], of the features' largest spread: below it the ratio falls linearly, to 0 at half of
            it; 0 disables this. A pull can bring groups together by shrinking the features to a point, and a network may not
            recover from that.
        most: largest multiple of ``value`` that the ratio reaches while the groups stay apart, at least 1; 1 fixes the ratio.
            The multiple (``metrics().gain``) grows slowly, and only while the features have their spread and the pull is no
            more coherent than the task gradient.

    If the pull is more coherent than the task gradient, more of it reaches the parameters. The ratio is then divided by that
    excess (``metrics().coherence_excess``).

    Attributes:
        task_norm: running mean of the task gradient norm, a scalar tensor; NaN until the first task gradient.
    """

    needs_task_gradient = True

    def __init__(self, value: float = 0.5, *, fade: float = 0.2, keep: float = 0.5, most: float = 1.5) -> None:
        self.value = check_not_negative("value", value)
        self.fade = check_not_negative("fade", fade)
        self.keep = check_not_negative("keep", keep)
        self.most = check_not_negative("most", most)
        if most < 1:
            raise ValueError(f"`most` must be at least 1, the largest multiple of the strength, got {most}")
        if keep > 1:
            raise ValueError(f"`keep` must be at most 1, a share of the features' largest spread, got {keep}")
        self._norms = WeightedWindow(MEMORY)
        self.task_norm = self._norms.mean()

    def __repr__(self) -> str:
        return f"BalancedStrength({self.value}, fade={self.fade}, keep={self.keep}, most={self.most})"

    def factor(self, gradient_norm: Tensor, separation: Tensor, kept: Tensor) -> Tensor:
        norm = gradient_norm.float()
        task_norm = to_device(self.task_norm, norm.device)
        wanted = self.value * task_norm / norm.clamp(min=torch.finfo(torch.float32).tiny)
        if self.fade > 0:
            wanted = wanted * (separation / self.fade).clamp(0.0, 1.0)
        if self.keep > 0:
            wanted = wanted * (2.0 * kept / self.keep - 1.0).clamp(0.0, 1.0)
        # The gradient of a dead critic is rounding noise, so its factor is 0 and not huge.
        return torch.where((wanted < torch.inf) & (norm > 0), wanted, 0.0)

    def record(self, task_norm: Tensor, weight: Tensor) -> None:
        # A GradScaler skips a step with an infinite gradient, and the window ignores its norm.
        self._norms.record(task_norm, weight)
        self.task_norm = self._norms.mean()

    def state_dict(self) -> dict[str, Any]:
        return self._norms.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._norms.load_state_dict(state)
        self.task_norm = self._norms.mean()


def as_strength(strength: float | Strength) -> Strength:
    """Return a strength object unchanged, or a number as the value of a :class:`BalancedStrength`.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(strength, int | float | Real):
        return BalancedStrength(check_not_negative("strength", float(strength)))
    check_object("strength", strength, ("factor",), "Give a number, or an object such as `BalancedStrength(0.5)`")
    return strength
