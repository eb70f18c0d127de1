"""CriticTrainer: critic, optimiser and constraint, in float32 and independent of the user's autocast and loss scaler."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wdpurify._checks import check_not_negative, check_object, check_positive_integer
from wdpurify._torch import (
    copy_from_first_rank,
    derive_seed,
    full_precision,
    private_generator,
    rank_and_world,
    refuse_unlike,
    to_device,
)
from wdpurify.lipschitz import lipschitz_bound

from .closed_form import closed_form
from .constraints import Constraint


class Differentiated(NamedTuple):
    """Value and gradient of a formula of the critic's scores.

    Attributes:
        value: value of the formula, detached scalar.
        gradient: gradient of the formula at the features, ``(batch, dim)``, float32.
        scores: critic scores, detached, ``(batch, n_groups)``.
    """

    value: Tensor
    gradient: Tensor
    scores: Tensor


class CriticTrainer:
    """Trains a critic on given features and differentiates formulas of its scores with respect to features.

    With the spread s of the features, scores are ``s * critic(features / s)``. This function has the same slope as the critic,
    its scores are in feature units, and critic training does not depend on the features' scale.

    Args:
        critic: maps ``(batch, dim)`` to ``(batch, n_groups)``, rows independent of each other.
        feature_dim: width of the features.
        n_groups: outputs of the critic.
        constraint: constrains the Lipschitz constant.
        lr: learning rate of Adam.
        steps: optimiser steps per call of :meth:`fit`.
        scale_features: divide features by their spread before the critic.
        seed: seed of the penalty's points.

    Attributes:
        spread: unit of the critic's input features, scalar; 0 before the first measurement.
    """

    def __init__(
        self,
        critic: nn.Module,
        feature_dim: int,
        *,
        n_groups: int,
        constraint: Constraint,
        lr: float,
        steps: int,
        scale_features: bool,
        seed: int,
    ) -> None:
        if not check_not_negative("critic_lr", lr) > 0:
            raise ValueError(f"`critic_lr` must be positive, got {lr}")
        check_object("constraint", constraint, ("penalty", "project_", "saturation"), "Give for example `GradientPenalty()`")
        check_positive_integer("critic_steps", steps)
        self.critic = critic
        self.feature_dim = feature_dim
        self.n_groups = n_groups
        self.constraint = constraint
        self._steps = steps
        self._scale_features = scale_features
        self.spread = torch.zeros((), dtype=torch.float32, device="cpu")  # 0: not measured yet
        self._seed = seed
        self.optimizer = torch.optim.Adam(critic.parameters(), lr=lr, foreach=True)
        for parameter in critic.parameters():  # Adam creates this at its first step; made here, states always have equal keys
            zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {"step": torch.zeros((), device="cpu"), **zeros}
        constraint.project_(critic)
        self._versions: list[int] | None = self._current_versions()
        self._agreed = False
        self._before: list[Tensor] | None = None
        self._memory: list[Tensor] = []

    def agree_across_ranks(self, shared: Mapping[str, object], *, device: torch.device) -> None:
        """Copy the first rank's critic and seed to every rank; only the first call has an effect.

        Args:
            shared: further settings that must be equal on every rank, as a mapping from name to value.
            device: device of the features, which carries the communication.

        Raises:
            ValueError: on every rank, if a setting differs.
        """
        if not self._agreed and rank_and_world()[1] > 1:
            self._move_to(device)
            shapes = ", ".join(str(tuple(parameter.shape)) for parameter in self.critic.parameters())
            settings = {"feature_dim": self.feature_dim, "shapes of the critic": shapes, "critic_steps": self._steps}
            refuse_unlike({**shared, **settings}, device=device)
            self._seed = copy_from_first_rank(self.critic, self._seed)
            self._versions = self._current_versions()
        self._agreed = True

    def read_in_units_of(self, spread: Tensor) -> None:
        """Divide features by this scalar spread from now on; 0 keeps the previous spread."""
        if self._scale_features:
            self.spread = torch.where(spread > 0, spread, to_device(self.spread, spread.device))

    def _unit(self, device: torch.device) -> Tensor:
        spread = to_device(self.spread, device)
        return torch.where(spread > 0, spread, torch.ones_like(spread))

    def fit(self, features: Tensor, groups: Tensor, population: Tensor, *, weights: Tensor, step: int) -> None:
        """Maximise the gap on one batch of auxiliary features: optimiser step, then projection, ``steps`` times.

        Args:
            features: detached, shape ``(batch, dim)``, finite.
            groups, population: the rows' roles, shape ``(batch,)`` each; groups of several labels ``(batch, labels)``.
            weights: result of :func:`wdpurify.functional.gap_weights` for these roles.
            step: number of the call, which seeds the penalty's points.
        """
        self._move_to(features.device)
        self._before = self._copies()
        self._versions = None  # an interrupt may come before they are read again
        try:
            self._fit(features, groups, population, weights=weights, step=step)
        except BaseException:  # also an interrupt, because no uninterrupted run has the critic of an incomplete step
            with torch.no_grad():
                torch._foreach_copy_(self._tensors(), self._before)
            raise
        finally:
            self._before = None
            self._versions = self._current_versions()

    def _fit(self, features: Tensor, groups: Tensor, population: Tensor, *, weights: Tensor, step: int) -> None:
        features = features / self._unit(features.device)
        generator = private_generator(features.device, derive_seed(self._seed, "penalty", step))
        parameters = [parameter for parameter in self.critic.parameters() if parameter.requires_grad]
        roles: dict[str, Any] = {"groups": groups, "population": population, "generator": generator}
        with full_precision(features.device.type), torch.enable_grad():
            loss = closed_form(self.critic, features, weights, self.constraint, **roles, updates=self._steps)
            for update in range(self._steps):
                if loss is not None:
                    gradients: Sequence[Tensor] = loss.gradients(update)
                else:
                    gap = (self.critic(features) * weights).sum()
                    penalty = self.constraint.penalty(self.critic, features, **roles)
                    gradients = torch.autograd.grad(penalty - gap, parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                self.optimizer.step()
                for parameter in parameters:
                    parameter.grad = None
                self.constraint.project_(self.critic)

    def differentiate(self, features: Tensor, formula: Callable[[Tensor], Tensor]) -> Differentiated:
        """Compute value and gradient of a formula of the critic's scores, without a change to any ``.grad``.

        Args:
            features: shape ``(batch, dim)``, finite.
            formula: maps scores ``(batch, n_groups)`` to a scalar.
        """
        self._move_to(features.device)
        leaf = features.detach().float().requires_grad_()
        unit = self._unit(features.device)
        with full_precision(features.device.type), torch.enable_grad():
            scores = unit * self.critic(leaf / unit)
            value = formula(scores)
            (gradient,) = torch.autograd.grad(value, leaf)
        return Differentiated(value.detach(), gradient, scores.detach())

    def saturation(self) -> Tensor:
        """Share of the critic's weights at the boundary of the constraint's allowed set, a scalar tensor."""
        return self.constraint.saturation(self.critic)

    def lipschitz_bound(self) -> float:
        """Certified Lipschitz constant of the critic; NaN for layers without a certified bound."""
        try:
            return lipschitz_bound(self.critic)
        except TypeError:
            return float("nan")

    def changed_by_others(self) -> bool:
        """Whether other code has written to the critic's parameters since :meth:`fit`; compares version counters only."""
        return self._versions is not None and self._versions != self._current_versions()

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the weights and the optimiser state; during :meth:`fit`, of those before the call."""
        tensors = self._tensors()
        values = {id(tensor): value for tensor, value in zip(tensors, self._before or tensors, strict=True)}
        weights = {name: values[id(value)].detach().clone() for name, value in self.critic.state_dict(keep_vars=True).items()}
        optimizer = _copied(self.optimizer.state_dict(), values)
        return {"critic": weights, "optimizer": optimizer, "spread": self.spread.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore weights and optimiser state, then project the weights onto the constraint."""
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(_copied(state["optimizer"]))
        self.spread = state["spread"].clone()
        self._project_loaded()
        self._versions = self._current_versions()

    @torch.no_grad()
    def _project_loaded(self) -> None:
        """Project the weights, unless they were projected before: twice would differ from once by rounding."""
        parameters = list(self.critic.parameters())
        loaded = [parameter.clone() for parameter in parameters]
        self.constraint.project_(self.critic)
        pairs = list(zip(parameters, loaded, strict=True))
        if all(torch.allclose(parameter, value, rtol=1e-5, atol=0) for parameter, value in pairs):
            for parameter, value in pairs:
                parameter.copy_(value)

    def _tensors(self) -> list[Tensor]:
        """Return every tensor that critic training changes."""
        states = (self.optimizer.state[parameter] for parameter in self.critic.parameters())
        moments = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        return [*self.critic.state_dict(keep_vars=True).values(), *moments]

    @torch.no_grad()
    def _copies(self) -> list[Tensor]:
        tensors = self._tensors()
        if [copied.device for copied in self._memory] != [tensor.device for tensor in tensors]:
            self._memory = [torch.empty_like(tensor) for tensor in tensors]
        torch._foreach_copy_(self._memory, tensors)
        return self._memory

    def _current_versions(self) -> list[int]:
        return [parameter._version for parameter in self.critic.parameters()]

    def _move_to(self, device: torch.device) -> None:
        if next(self.critic.parameters()).device != device:
            self.critic.to(device)
            self.optimizer.load_state_dict(self.optimizer.state_dict())  # copies its tensors to the parameters' device
            self._versions = self._current_versions()


def _copied(value: Any, values: Mapping[int, Tensor] | None = None) -> Any:
    """Copy every tensor in nested containers, so that later training does not change a saved state.

    Args:
        value: a tensor, a container, or any other object.
        values: replacements of some tensors, as a mapping from ``id(tensor)``.
    """
    if isinstance(value, Tensor):
        return (values or {}).get(id(value), value).detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item, values) for key, item in value.items()}
    return [_copied(item, values) for item in value] if isinstance(value, list) else value
