"""Pull: one object that owns the strength, the record of the task gradient, and what is handed to the user's backward pass."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import gathered, is_shard, like, moved, own_part
from wdpurify.functional import norm_of_all_passes

from .coherence import Coherence
from .gain import Gain
from .graphs import reachable_parameters
from .hand_over import PassRecord, hand_over
from .separation import Separation
from .spread import Spread
from .strength import Strength
from .task_gradient import TaskGradient, observations


class Pull:
    """What moves the extractor in one iteration.

    A pull at the auxiliary rows is prepared once, as gradients of the extractor's parameters, and handed to every pass of the
    iteration; a pull at the task's rows is made for each pass. Both get their size here, from the strength, and both report
    here what the task gradient was.

    Args:
        strength: sizes the pull.
        feature_dim: width of the features.

    Attributes:
        prepared_norm: norm of the last pull at the features that was made, scalar; None before the first.
        applied_norm: the same of the last iteration that was to be pulled; 0 if no backward pass has come to it.
        separation: how far apart the groups are.
        spread: how much of their spread the features still have.
        coherence: how much of the pull and of the task gradient is left below the features.
        gain: how many times the strength the pull has.
        task_spread: spread of the task's features in the last iteration, scalar; NaN where it is not known.
    """

    def __init__(self, strength: Strength, feature_dim: int) -> None:
        self.strength = strength
        self.prepared_norm: Tensor | None = None
        self.applied_norm: Tensor | None = None
        self._is_due = False
        self._is_handed = False
        self._ledger = TaskGradient(feature_dim)
        self.separation = Separation()
        self.spread = Spread()
        self.coherence = Coherence()
        self.gain = Gain()
        self.task_spread = torch.full((), torch.nan, device="cpu")
        self._feature_dim = feature_dim
        self._value: Tensor | None = None
        self._parameters: list[tuple[Tensor, Tensor]] = []

    @property
    def term_factor(self) -> Tensor | None:
        """By what the last term was multiplied in the backward pass, with its sign; None before the first."""
        return self._ledger.factor

    @property
    def task_norm(self) -> Tensor | None:
        """Norm of the task gradient at the features, in units of the unscaled loss, as last recorded."""
        return self._ledger.latest

    def read_task_gradient(self, iterations: int, *, device: torch.device, world: int) -> None:
        """Give the strength what was recorded in the last ``iterations``, by all ranks."""
        rows = self._ledger.take(iterations)
        joint = gathered(moved(rows, device)) if world > 1 else rows[None]
        for task_norm, weight, coherent, variance in observations(joint):
            self.strength.record(task_norm, weight)
            self.coherence.record_task(coherent)
            self.task_spread = (variance / self._feature_dim).sqrt()

    def factor(self, norm: Tensor) -> Tensor:
        """What to multiply a gradient at the features with, scalar, given its norm over the rows of all ranks.

        A pull that is more coherent than the task gradient counts as so much larger: below the features it is.
        """
        known = (self.separation.value, self.spread.kept, self.coherence.excess, self.coherence.ratio)
        separation, kept, excess, ratio = (moved(value, norm.device) for value in known)
        factor = self.strength.factor(norm * excess, separation, kept) * self.gain.apply(kept, ratio)
        self.prepared_norm = norm * factor
        return factor

    def record_gain(self) -> None:
        """Let the gain follow the separation, once per acting iteration; a strength without `most` has none."""
        limits = {"fade": getattr(self.strength, "fade", 0.0), "most": getattr(self.strength, "most", 1.0)}
        self.gain.record(self.separation.value, **limits)

    def prepare(self, value: Tensor, factor: Tensor, parameters: list[tuple[Tensor, Tensor]]) -> None:
        """Keep a pull at the auxiliary rows for the passes of this iteration.

        Args:
            value: of the objective, scalar.
            factor: what :meth:`factor` gave; the gradients have it already.
            parameters: the extractor's parameters, each with its gradient.
        """
        self._value = self._reported(value, factor)
        self._parameters = parameters
        self._is_due = True

    def at_task_rows(self, value: Tensor, gradients: Sequence[Tensor], *, ranks: int) -> tuple[Tensor, list[Tensor]]:
        """The value to report and the gradients to hand over of an objective that acts on the task's rows.

        Args:
            value: of the objective on the rows of this pass, scalar.
            gradients: its gradients at the features of this pass, one per forward.
            ranks: how many ranks have a pass like this one.
        """
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        joint = norm_of_all_passes(norm, self._ledger.passes_before * ranks)
        factor = self.factor(joint)
        return self._reported(value, factor), [gradient * factor for gradient in gradients]

    def hand_over(
        self,
        features: Sequence[Tensor],
        numbers: Sequence[int],
        record: PassRecord,
        *,
        probe: Tensor | None,
        own: tuple[Tensor, list[Tensor]] | None,
        ranks: int,
        climbed: bool,
    ) -> Tensor:
        """The term to add to the user's loss: the prepared pull, or ``own``, or nothing but the measurement.

        Args:
            features: what the task's head reads in this pass, forward by forward.
            numbers: of these forwards in the pass.
            record: of this pass.
            probe: gets the gradient's square in a compiled graph.
            own: what :meth:`at_task_rows` gave, if the objective acts there.
            ranks: how many ranks train one model.
            climbed: whether the optimiser goes up the gradient (``maximize=True``).
        """
        record.report_to(self._ledger, probe=probe)
        record.handed = True
        newest = features[-1]
        # At least float32: a loss scaler's factor would overflow half precision.
        wide = torch.promote_types(newest.dtype, torch.float32)
        value = torch.zeros((), dtype=wide, device=newest.device)
        pulls: list[Tensor | None] = [None] * len(features)
        parameters: list[tuple[Tensor, Tensor]] = []
        if own is not None or self._value is not None:
            self.applied_norm = self.prepared_norm
            self._is_handed = True
        if own is not None:
            value = own[0].to(value)
            pulls = list(own[1])
        elif self._value is not None:
            value = self._value.to(value)
            parameters = self._parameters
            if ranks > 1:
                reachable = reachable_parameters(features)
                parameters = [pair for pair in parameters if is_shard(pair[0]) or id(pair[0]) in reachable]
        edges = list(zip(numbers, features, pulls, strict=True))
        # A compiled forward reports by its probe; an edge to its features could free a graph that another loss needs.
        edges = edges if probe is None or own is not None else []
        return hand_over(value, record, edges, parameters, climbed=climbed)

    def settle(self) -> None:
        """The iteration is over: a pull that no backward pass has come to is none."""
        if self._is_due and not (self._is_handed and self._ledger.came):
            self.miss()
        self._is_due = self._is_handed = False

    def miss(self) -> None:
        """An iteration that was to be pulled is not."""
        self.applied_norm = None if self.prepared_norm is None else torch.zeros_like(self.prepared_norm)

    def prepared(self, named: Iterable[tuple[str, Tensor]]) -> dict[str, Any] | None:
        """The prepared pull as tensors, its gradients under their parameters' names; None where there is none."""
        if self._value is None:
            return None
        names = {id(parameter): name for name, parameter in named}
        gradients = {names[id(parameter)]: own_part(gradient).cpu().clone() for parameter, gradient in self._parameters}
        return {"value": self._value.cpu().clone(), "gradients": gradients}

    def take_prepared(self, state: dict[str, Any], named: Iterable[tuple[str, Tensor]]) -> None:
        """Hold a pull that was prepared before, at the same weights, for what is left of its iteration."""
        parameters = dict(named)
        gradients = state["gradients"].items()
        self._parameters = [(parameters[name], like(parameters[name], gradient)) for name, gradient in gradients]
        self._value = state["value"].clone()

    def drop(self) -> None:
        """Let go of the prepared pull."""
        self._value = None
        self._parameters = []

    def end_iteration(self) -> None:
        """The next pass belongs to another iteration."""
        self.settle()
        self.drop()
        self._ledger.close()

    def restart_iteration(self) -> None:
        """The gradients of this iteration's passes were cleared before the optimiser saw them."""
        self._ledger.restart()

    def state_dict(self) -> dict[str, Any]:
        """The memory of the strength and the record of the task gradient."""
        return {
            "strength": self.strength.state_dict(),
            "ledger": self._ledger.state_dict(),
            "separation": self.separation.state_dict(),
            "spread": self.spread.state_dict(),
            "coherence": self.coherence.state_dict(),
            "gain": self.gain.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state; a pull that was prepared before is dropped."""
        self.strength.load_state_dict(state["strength"])
        self._ledger.load_state_dict(state["ledger"])
        self.separation.load_state_dict(state["separation"])
        self.spread.load_state_dict(state["spread"])
        self.coherence.load_state_dict(state["coherence"])
        self.gain.load_state_dict(state["gain"])
        self.drop()

    @staticmethod
    def _reported(value: Tensor, factor: Tensor) -> Tensor:
        """What the term's gradient is the gradient of: the objective times the factor that is applied, 0 where none is."""
        return torch.where(factor > 0, factor * value, 0.0)
