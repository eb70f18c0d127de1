"""How strongly the purify gradient pulls: a fixed factor, or a share of the task gradient."""

from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor

from wdpurify._checks import check_not_negative
from wdpurify._torch import moved

#: Share of the memory of the task gradient that an iteration with a smaller, with a larger task gradient keeps.
FALLING_DECAY = 0.9
RISING_DECAY = 0.99


class Strength(Protocol):
    """What the regularizer asks of a strength.

    Attributes:
        value: what was asked for, at least 0; 0 only measures.
        needs_task_gradient: whether the factor stays 0 until a task gradient was recorded.
    """

    value: float
    needs_task_gradient: bool

    def factor(self, gradient_norm: Tensor, separation: Tensor) -> Tensor:
        """What to multiply a purify gradient of this norm with, a scalar tensor; `separation` is the gap over the spread."""
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

    def factor(self, gradient_norm: Tensor, separation: Tensor) -> Tensor:
        return torch.full((), self.value, device=gradient_norm.device)

    def record(self, task_norm: Tensor, weight: Tensor) -> None:
        """A fixed factor needs none."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is remembered."""


class BalancedStrength:
    """The purify gradient scaled to a share of the task gradient at the features, fading as the groups come together.

    The applied gradient is ``value * min(1, separation / fade) * EMA(||g_task||) * g / ||g||``: the scales of critic, loss,
    loss scaler and accumulation divisor cancel. W1 has a slope of 1 however close the groups are, so without the fade a
    share that is right at the start throws purified features about at the end; with it the objective is W1 far away and
    its square nearby (as in Huber's loss). A critic that is wrong by its own estimate (below 0) pulls nothing. Until a task
    gradient has been seen the factor is 0. Give each regularizer an object of its own: it remembers that gradient.

    The memory rises slowly: a pull that upsets the task makes the task gradient grow, and a memory that followed at once would
    answer with a stronger pull still, until nothing is left of the features.

    The mean over the iterations weighs each by the factor that the loop gave the term in it, so an iteration in which the term
    hardly counted (a mixup loop that scales the first of two criteria) says hardly anything.

    Args:
        value: ratio of the norms while the groups are apart, at least 0. It holds in the steps in which the term is present.
        fade: separation (gap over the mean distance of features from their mean) below which the ratio falls linearly to 0, at
            least 0; 0 never fades.

    Attributes:
        falling_decay, rising_decay: share of the memory that an iteration with a smaller, a larger task gradient keeps, in
            [0, 1); equal ones give a plain moving average, 0 keeps nothing.
        task_norm: the memory, a scalar tensor; NaN until a task gradient was recorded.
    """

    needs_task_gradient = True
    falling_decay = FALLING_DECAY
    rising_decay = RISING_DECAY

    def __init__(self, value: float = 3.0, *, fade: float = 0.1) -> None:
        self.value = check_not_negative("value", value)
        self.fade = check_not_negative("fade", fade)
        self.task_norm: Tensor = torch.tensor(float("nan"), dtype=torch.float32, device="cpu")
        self._weight: Tensor = torch.zeros((), dtype=torch.float32, device="cpu")

    def factor(self, gradient_norm: Tensor, separation: Tensor) -> Tensor:
        norm = gradient_norm.float()
        known = moved(self.task_norm, norm.device)
        wanted = self.value * known / norm.clamp(min=torch.finfo(torch.float32).tiny)
        if self.fade > 0:
            wanted = wanted * (separation / self.fade).clamp(0.0, 1.0)
        # A dead critic has no direction to give: 0 rather than a huge factor on rounding noise.
        return torch.where(torch.isfinite(wanted) & (norm > 0), wanted, torch.zeros_like(wanted))

    def record(self, task_norm: Tensor, weight: Tensor) -> None:
        known = moved(self.task_norm, task_norm.device)
        held = moved(self._weight, task_norm.device)
        first = torch.isnan(known)
        decay = torch.where(task_norm > known, self.rising_decay, self.falling_decay)
        old = decay * held
        new = (1.0 - decay) * weight
        total = torch.where(first, weight, old + new)
        mean = torch.where(first, task_norm, (old * known + new * task_norm) / total)
        # A step with an infinite gradient is one that a GradScaler skips: it teaches nothing.
        usable = torch.isfinite(task_norm) & (weight > 0)
        self.task_norm = torch.where(usable, mean, known)
        self._weight = torch.where(usable, total, held)

    def state_dict(self) -> dict[str, Any]:
        return {"task_norm": self.task_norm.detach().cpu().clone(), "weight": self._weight.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task_norm = state["task_norm"].clone()
        self._weight = state["weight"].clone()


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
