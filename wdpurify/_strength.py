"""How strongly the purify gradient pulls: a fixed factor, or a share of the task gradient."""

from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor

from ._checks import check_not_negative
from ._devices import moved


class Strength(Protocol):
    """What the regularizer asks of a strength."""

    value: float

    def factor(self, gradient_norm: Tensor, separation: Tensor) -> Tensor:
        """What to multiply a purify gradient of this norm with, a scalar tensor; `separation` is the gap over the spread."""
        ...

    def observe(self, task_norm: Tensor, weight: Tensor) -> None:
        """Take note of an iteration's task gradient.

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

    def __init__(self, value: float = 1.0) -> None:
        self.value = check_not_negative("value", value)

    def factor(self, gradient_norm: Tensor, separation: Tensor) -> Tensor:
        return torch.full((), self.value, device=gradient_norm.device)

    def observe(self, task_norm: Tensor, weight: Tensor) -> None:
        """A fixed factor does not look at the task."""

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
        decay: share of the memory that an iteration with a smaller task gradient keeps, in [0, 1); 0 keeps nothing.
        rising_decay: the same for an iteration with a larger one, in [0, 1); equal to ``decay`` gives a plain moving average.
    """

    def __init__(self, value: float = 3.0, *, fade: float = 0.1, decay: float = 0.9, rising_decay: float = 0.99) -> None:
        self.value = check_not_negative("value", value)
        self.fade = check_not_negative("fade", fade)
        self.decay, self.rising_decay = _check_decay("decay", decay), _check_decay("rising_decay", rising_decay)
        self.task_norm: Tensor = torch.tensor(float("nan"), dtype=torch.float32, device="cpu")  # NaN: no task gradient seen yet
        self._weight: Tensor = torch.zeros((), dtype=torch.float32, device="cpu")

    def factor(self, gradient_norm: Tensor, separation: Tensor) -> Tensor:
        norm = gradient_norm.float()
        known = moved(self.task_norm, norm.device)
        wanted = self.value * known / norm.clamp(min=torch.finfo(torch.float32).tiny)
        if self.fade > 0:
            wanted = wanted * (separation / self.fade).clamp(0.0, 1.0)
        # A dead critic has no direction to give: 0 rather than a huge factor on rounding noise.
        return torch.where(torch.isfinite(wanted) & (norm > 0), wanted, torch.zeros_like(wanted))

    def observe(self, task_norm: Tensor, weight: Tensor) -> None:
        known, held = moved(self.task_norm, task_norm.device), moved(self._weight, task_norm.device)
        first = torch.isnan(known)
        decay = torch.where(task_norm > known, self.rising_decay, self.decay)
        old, new = decay * held, (1.0 - decay) * weight
        total = torch.where(first, weight, old + new)
        mean = torch.where(first, task_norm, (old * known + new * task_norm) / total)
        # A step with an infinite gradient is one that a GradScaler skips: it teaches nothing.
        usable = torch.isfinite(task_norm) & (weight > 0)
        self.task_norm = torch.where(usable, mean, known)
        self._weight = torch.where(usable, total, held)

    def state_dict(self) -> dict[str, Any]:
        return {"task_norm": self.task_norm.detach().cpu().clone(), "weight": self._weight.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task_norm, self._weight = state["task_norm"].clone(), state["weight"].clone()


def _check_decay(name: str, decay: float) -> float:
    if not 0 <= decay < 1:
        raise ValueError(f"`{name}` must be in [0, 1), got {decay}")
    return decay


def as_strength(strength: float | Strength) -> Strength:
    """A strength object as it is, a number as the value of a :class:`BalancedStrength`.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(strength, int | float | Real):
        return BalancedStrength(float(strength))
    if not hasattr(strength, "factor"):
        raise TypeError(f"`strength` must be a number or a strength object, got {type(strength).__name__}")
    return strength
