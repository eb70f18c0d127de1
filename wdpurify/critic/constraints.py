"""Three interchangeable constraints on a critic's Lipschitz constant: weight clipping, gradient penalty, spectral clipping.

A constraint is any object with the three methods of :class:`Constraint`. It keeps no state between calls.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from wdpurify.functional import gradient_penalty, pair_with_population
from wdpurify.lipschitz import clip_spectral_norm_, clip_weights_


class Constraint(Protocol):
    """Interface of a constraint."""

    def penalty(
        self,
        critic: nn.Module,
        features: Tensor,
        groups: Tensor,
        population: Tensor,
        *,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Return a scalar to add to the critic's loss.

        Features have the shape ``(batch, dim)``, groups and population ``(batch,)``; groups of several labels
        ``(batch, labels)``.
        """
        ...

    def project_(self, critic: nn.Module) -> None:
        """Project the critic's weights onto the allowed set: at the start, after each step and after loading."""
        ...

    def saturation(self, critic: nn.Module) -> Tensor:
        """Share of the critic's weights at the boundary of the allowed set, a scalar tensor in [0, 1]."""
        ...


@dataclass(frozen=True)
class _Projection:
    """A constraint that only projects weights; `bound` must be above 0."""

    bound: float

    def __post_init__(self) -> None:
        if not self.bound > 0:
            raise ValueError(f"`bound` must be positive, got {self.bound}")

    def penalty(
        self,
        critic: nn.Module,
        features: Tensor,
        groups: Tensor,
        population: Tensor,
        *,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Return 0: the projection enforces the constraint."""
        return torch.zeros((), device=features.device)

    def saturation(self, critic: nn.Module) -> Tensor:
        """Return 0: the constraint does not bound single weights."""
        return _none_saturated(critic)


@dataclass(frozen=True)
class WeightClipping(_Projection):
    """Clips every weight to ``[-bound, bound]``, the paper's constraint.

    The resulting Lipschitz constant is far above 1 (up to about 1,483 for 128-512-256-10-1 at 0.1). A ReLU critic can die
    under this constraint: see :func:`wdpurify.lipschitz.lipschitz_bound` and ``metrics()``.

    Args:
        bound: largest magnitude of a weight, above 0.

    Source: Li et al. 2021, arXiv:2102.10955, Sec. IV-A (0.1).
    """

    bound: float = 0.1

    def project_(self, critic: nn.Module) -> None:
        """Clamp every weight."""
        clip_weights_(critic, self.bound)

    def saturation(self, critic: nn.Module) -> Tensor:
        """Share of the weights at plus or minus the bound."""
        weights = torch.cat([parameter.detach().flatten() for parameter in critic.parameters()])
        return (weights.abs() >= self.bound).float().mean()


@dataclass(frozen=True)
class SpectralClipping(_Projection):
    """Scales every layer's spectral norm to at most ``bound``: with 1 the critic is 1-Lipschitz by construction.

    Args:
        bound: largest spectral norm of a layer, above 0.

    Source: Yoshida and Miyato 2017, arXiv:1705.10941, as a projection after each step.
    """

    bound: float = 1.0

    def project_(self, critic: nn.Module) -> None:
        """Scale every layer down to the bound."""
        clip_spectral_norm_(critic, self.bound)


@dataclass(frozen=True)
class GradientPenalty:
    """Penalises slopes of the critic that differ from 1 on the lines between group and population.

    Args:
        weight: factor of the penalty, above 0.

    Source: Gulrajani et al. 2017, arXiv:1704.00028 (weight 10).
    """

    weight: float = 10.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"`weight` must be positive, got {self.weight}")

    def penalty(
        self,
        critic: nn.Module,
        features: Tensor,
        groups: Tensor,
        population: Tensor,
        *,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Return the mean squared distance of the slope from 1, times the weight."""
        points, outputs = self.points(features, groups, population, generator=generator, count=1)
        return self.weight * gradient_penalty(critic, points[0], outputs[0])

    def points(
        self, features: Tensor, groups: Tensor, population: Tensor, *, generator: torch.Generator | None, count: int
    ) -> tuple[Tensor, Tensor]:
        """Draw sets of points whose slopes are penalised, and the critic's output for each point (-1: none).

        Returns:
            Shapes ``(count, batch, dim)`` and ``(count, batch)``; equal to ``count`` draws of one set.
        """
        numbers, outputs = [], []
        for _ in range(count):
            outputs.append(groups if groups.ndim == 1 else _one_label(groups, generator))
            shape, dtype = (2, len(features)), features.dtype
            numbers.append(torch.rand(shape, device=features.device, dtype=dtype, generator=generator))
        mix, order = torch.stack(numbers, dim=1)
        return pair_with_population(features, groups, population, mix=mix, order=order), torch.stack(outputs)

    def project_(self, critic: nn.Module) -> None:
        """Do nothing: the penalty acts through the critic's loss."""

    def saturation(self, critic: nn.Module) -> Tensor:
        """Return 0: the constraint does not bound weights."""
        return _none_saturated(critic)


def _one_label(groups: Tensor, generator: torch.Generator | None) -> Tensor:
    """Choose one of the labels of each row at random, shape ``(batch,)``."""
    label = torch.randint(groups.shape[1], (len(groups), 1), device=groups.device, generator=generator)
    return groups.gather(1, label)[:, 0]


def _none_saturated(critic: nn.Module) -> Tensor:
    return torch.zeros((), device=next(critic.parameters()).device)
