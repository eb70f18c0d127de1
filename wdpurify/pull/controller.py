"""StrengthController: computes the size of the pull from running figures of features, critic and task gradient."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import gather_ranks, to_device
from wdpurify.functional import norm_of_all_passes

from .coherence import Coherence, variance
from .gain import Gain
from .separation import Separation
from .spread import Spread
from .strength import Strength
from .task_gradient import TaskGradients, combine_ranks


class StrengthController:
    """Scales gradients at the features, and holds all running figures that the scale depends on.

    Args:
        strength: the user's strength.
        feature_dim: width of the features.
        every: iterations from one auxiliary step to the next.

    Attributes:
        task_gradients: the recorded task gradients.
        separation: the gap between the groups.
        spread: the remaining spread of the features.
        coherence: the coherence of the pull and of the task gradient.
        gain: the multiple of the strength.
        prepared_norm: norm of the last scaled pull at the features, scalar; None before the first.
        joint_norm: norm of the last task gradient that :meth:`read_task_gradients` has read, scalar; None before the first.
    """

    def __init__(self, strength: Strength, feature_dim: int, *, every: int) -> None:
        self.strength = strength
        self.task_gradients = TaskGradients(feature_dim, every=every)
        self.separation = Separation()
        self.spread = Spread()
        self.coherence = Coherence()
        self.gain = Gain()
        self._task_sums = self.task_gradients.nothing[None]
        self.prepared_norm: Tensor | None = None
        self.joint_norm: Tensor | None = None
        self._feature_dim = feature_dim

    @property
    def task_spread(self) -> Tensor:
        """Spread of the task's features in the last iteration, scalar; NaN if unknown."""
        return (variance(self._task_sums[-1]) / self._feature_dim).sqrt()

    def read_task_gradients(self, *, device: torch.device, world: int) -> None:
        """Pass the task gradients of all ranks since the last auxiliary step to the strength."""
        rows = self.task_gradients.pop_ended()
        joint = gather_ranks(to_device(rows, device)) if world > 1 else rows[None]
        norms, weights, self._task_sums = combine_ranks(joint)
        self.joint_norm = norms[-1]
        for task_norm, weight in zip(norms, weights, strict=True):
            self.strength.record(task_norm, weight)

    def record_pull(self, features: Tensor, gradient: Tensor, in_play: Tensor) -> None:
        """Record a pull at the auxiliary features before scaling; the arguments are those of ``Coherence.record``."""
        if self.strength.needs_task_gradient:  # the size of another pull does not depend on the coherence
            self.coherence.record(self._task_sums, features, gradient, in_play)
        limits = {"fade": getattr(self.strength, "fade", 0.0), "most": getattr(self.strength, "most", 1.0)}
        self.gain.record(self.separation.value, **limits)  # a strength without `most` has no gain

    def factor(self, norm: Tensor) -> Tensor:
        """Compute the factor of a gradient at the features, scalar, from its norm over the rows of all ranks.

        The norm is multiplied by the excess coherence, because more of a coherent pull reaches the layers below.
        """
        figures = (self.separation.value, self.spread.kept, self.coherence.excess, self.coherence.ratio)
        separation, kept, excess, ratio = (to_device(value, norm.device) for value in figures)
        factor = self.strength.factor(norm * excess, separation, kept) * self.gain.apply(kept, ratio)
        self.prepared_norm = norm * factor
        return factor

    def scale_at_task_rows(self, value: Tensor, gradients: Sequence[Tensor], *, ranks: int) -> tuple[Tensor, list[Tensor]]:
        """Scale value and gradients of an objective on the task's rows.

        Args:
            value: value of the objective on the rows of this pass, scalar.
            gradients: its gradients at the features of this pass, one per forward.
            ranks: number of ranks with such a pass.
        """
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        factor = self.factor(norm_of_all_passes(norm, self.task_gradients.passes_before * ranks))
        return scaled_value(value, factor), [gradient * factor for gradient in gradients]

    def snapshot(self) -> "StrengthController":
        """Return a snapshot that shares all tensors: running figures are replaced, and never changed in place."""
        snapshot: StrengthController = _snapshot(self)
        return snapshot

    def state_dict(self) -> dict[str, Any]:
        """Return all running figures as tensors and numbers."""
        parts = self._parts()
        return {f"{name}.{leaf}": value for name, part in parts.items() for leaf, value in part.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore saved figures."""
        for name, part in self._parts().items():
            part.load_state_dict(
                {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
            )

    def _parts(self) -> dict[str, Any]:
        return {
            "strength": self.strength,
            "task_gradients": self.task_gradients,
            "separation": self.separation,
            "spread": self.spread,
            "coherence": self.coherence,
            "gain": self.gain,
        }


def _snapshot(value: Any) -> Any:
    if isinstance(value, list):
        return [_snapshot(item) for item in value]
    if not type(value).__module__.startswith("wdpurify."):  # a strength of the caller's own, which may change in place
        return copy.copy(value) if hasattr(value, "load_state_dict") else value
    made = copy.copy(value)
    vars(made).update({name: _snapshot(item) for name, item in vars(value).items()})
    return made


def scaled_value(value: Tensor, factor: Tensor) -> Tensor:
    """Scale the value of the objective like its gradient, so the term equals the function whose gradient it emits."""
    return torch.where(factor > 0, factor * value, 0.0)
