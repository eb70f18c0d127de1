"""CriticTrainer: critic, optimiser and constraint, in float32 and out of reach of the user's autocast and scaler."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wdpurify._checks import check_positive_integer
from wdpurify._torch import (
    copy_from_first_rank,
    derive_seed,
    full_precision,
    moved,
    private_generator,
    rank_and_world,
    refuse_unlike,
)
from wdpurify.lipschitz import lipschitz_bound

from .constraints import Constraint


class Differentiated(NamedTuple):
    """A formula of the critic's scores at given features.

    Attributes:
        value: of the formula, detached scalar.
        gradient: its gradient at the features, ``(batch, dim)``, float32.
        scores: detached, ``(batch, n_groups)``.
    """

    value: Tensor
    gradient: Tensor
    scores: Tensor


class CriticTrainer:
    """Trains a critic on given features and differentiates formulas of its scores with respect to features.

    The critic reads features in units of their spread s and its outputs are taken times s: ``s * critic(features / s)`` has the
    critic's own slope, scores are in feature units, and a critic learns equally well whatever the features' scale.

    Args:
        critic: maps ``(batch, dim)`` to ``(batch, n_groups)``, rows independent of each other.
        feature_dim: width of the features.
        n_groups: outputs of the critic.
        constraint: holds the Lipschitz constant.
        lr: learning rate of Adam.
        steps: optimiser steps per call of :meth:`fit`.
        scale_features: let the critic read features in units of their spread; otherwise as they come.
        seed: seed of the penalty's points.

    Attributes:
        spread: of the features, in whose units the critic reads them, scalar; 0 before it is known.
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
        if not lr > 0:
            raise ValueError(f"`critic_lr` must be positive, got {lr}")
        check_positive_integer("critic_steps", steps)
        self.critic = critic
        self.feature_dim = feature_dim
        self.n_groups = n_groups
        self.constraint = constraint
        self._steps = steps
        self._scale_features = scale_features
        self.spread = torch.zeros((), dtype=torch.float32, device="cpu")  # 0: not known yet
        self._seed = seed
        self.optimizer = torch.optim.Adam(critic.parameters(), lr=lr, foreach=True)
        for parameter in critic.parameters():  # as Adam's first step makes it, so that a state has the same entries at any time
            zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {"step": torch.zeros((), device="cpu"), **zeros}
        constraint.project_(critic)
        self._versions = self._current_versions()
        self._agreed = False
        self._before: list[Tensor] | None = None
        self._memory: list[Tensor] = []

    def agree_across_ranks(self, shared: Mapping[str, object], *, device: torch.device) -> None:
        """Start from the first rank's critic and seed on every rank; only the first call has an effect.

        Args:
            shared: what else must be alike on every rank, by name.
            device: of the features, through which the ranks talk.

        Raises:
            ValueError: on every rank, if something is not.
        """
        if not self._agreed and rank_and_world()[1] > 1:
            self._move_to(device)
            shapes = ", ".join(str(tuple(parameter.shape)) for parameter in self.critic.parameters())
            mine = {"feature_dim": self.feature_dim, "shapes of the critic": shapes, "critic_steps": self._steps}
            refuse_unlike({**shared, **mine}, device=device)
            self._seed = copy_from_first_rank(self.critic, self._seed)
            self._versions = self._current_versions()
        self._agreed = True

    def read_in_units_of(self, spread: Tensor) -> None:
        """Read features in units of this spread from now on, a scalar; 0 keeps the former unit."""
        if self._scale_features:
            self.spread = torch.where(spread > 0, spread, moved(self.spread, spread.device))

    def _unit(self, device: torch.device) -> Tensor:
        spread = moved(self.spread, device)
        return torch.where(spread > 0, spread, torch.ones_like(spread))

    def fit(self, features: Tensor, groups: Tensor, population: Tensor, *, weights: Tensor, step: int) -> None:
        """Maximise the gap on one batch of auxiliary features: optimiser step, then projection, ``steps`` times.

        Args:
            features: detached, shape ``(batch, dim)``, finite.
            groups, population: the rows' roles, shape ``(batch,)`` each.
            weights: what :func:`wdpurify.functional.gap_weights` makes of these.
            step: number of the call, which seeds the penalty's points.
        """
        self._move_to(features.device)
        self._before = self._copies()
        try:
            self._fit(features, groups, population, weights=weights, step=step)
        except BaseException:  # an interrupt, too: the critic of a half-done step is none that a run would have come to
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
        with full_precision(features.device.type), torch.enable_grad():
            for _ in range(self._steps):
                gap = (self.critic(features) * weights).sum()
                penalty = self.constraint.penalty(self.critic, features, groups, population, generator=generator)
                gradients = torch.autograd.grad(penalty - gap, parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                self.constraint.project_(self.critic)

    def differentiate(self, features: Tensor, formula: Callable[[Tensor], Tensor]) -> Differentiated:
        """Value and gradient of a formula of the critic's scores; nothing is left in any ``.grad``.

        Args:
            features: rows, ``(batch, dim)``, finite.
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
        """Share of the critic's weights at the edge of what the constraint allows, a scalar tensor."""
        return self.constraint.saturation(self.critic)

    def lipschitz_bound(self) -> float:
        """Certified constant of the critic; NaN for one that cannot be bounded."""
        try:
            return lipschitz_bound(self.critic)
        except TypeError:
            return float("nan")

    def changed_by_others(self) -> bool:
        """Whether anything but :meth:`fit` has written to the critic's parameters since; looks at version counters only."""
        return self._versions != self._current_versions()

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser state, as copies; while the critic is trained, those from before."""
        tensors = self._tensors()
        values = {id(tensor): value for tensor, value in zip(tensors, self._before or tensors, strict=True)}
        weights = {name: values[id(value)].detach().clone() for name, value in self.critic.state_dict(keep_vars=True).items()}
        optimizer = _copied(self.optimizer.state_dict(), values)
        return {"critic": weights, "optimizer": optimizer, "spread": self.spread.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved weights and optimiser state; the constraint holds afterwards."""
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(_copied(state["optimizer"]))
        self.spread = state["spread"].clone()
        self.constraint.project_(self.critic)
        self._versions = self._current_versions()

    def _tensors(self) -> list[Tensor]:
        """All that training the critic writes to."""
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
            self.optimizer.load_state_dict(self.optimizer.state_dict())  # moves its tensors to the parameters' device
            self._versions = self._current_versions()


def _copied(value: Any, values: Mapping[int, Tensor] | None = None) -> Any:
    """The same nest of containers with every tensor copied, so that a saved state does not change as training goes on.

    Args:
        value: a tensor, a container, or what is neither.
        values: what to copy in place of some tensors, by their identity.
    """
    if isinstance(value, Tensor):
        return (values or {}).get(id(value), value).detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item, values) for key, item in value.items()}
    return [_copied(item, values) for item in value] if isinstance(value, list) else value
