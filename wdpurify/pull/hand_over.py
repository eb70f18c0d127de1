"""How the pull enters the user's backward pass, and how the task gradient is measured there.

The gradients of the purify term are known before the user calls ``backward()``. The term that he adds to his loss is a scalar
node that only hands them over, times whatever factor his loss was scaled by. The gradient that arrives at the task features in
the same pass, less what this library sent there, is the task gradient.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import in_compiled_backward, is_free_to_read

from .coherence import count_of_sums, projected, projections, sums_over_rows
from .task_gradient import TaskGradient


class PassRecord:
    """What one pass tells of its backward: by how much the term was scaled, and the task gradient at its features.

    It holds nothing of the size of features or parameters, but until the backward a projection of the features.

    Attributes:
        handed: whether a term was handed over for this pass.
        closed: whether a backward has gone through the features, so that their graph is gone.
    """

    def __init__(self) -> None:
        self.handed = False
        self.closed = False
        self._ledger: TaskGradient | None = None
        self._probed = False
        self._came = False
        self._counted = False
        self._forwards = 0
        self._awaited: set[int] = set()
        self._own: dict[int, Tensor] = {}
        self._projected: dict[int, tuple[Tensor, Tensor | None]] = {}

    @property
    def pending(self) -> bool:
        """Whether a term was handed over whose backward is still to come."""
        return self._ledger is not None and not (self.closed or self._counted)

    def read_at(self, features: Tensor) -> int:
        """Read the gradient that comes to the features of one more forward of this pass, and give its number."""
        number = self._forwards
        if features.requires_grad:
            features.register_hook(_Reader(self, number))
            if features.ndim == 2:
                of_features, of_gradients = projections(features.shape[1], features.device) or (None, None)
                self._projected[number] = projected(features, of_features), of_gradients
        if features.grad_fn is not None:
            # Not the tensor's hook: that one is called, too, by who only asks for the gradient at the features.
            features.grad_fn.register_hook(self._through)
        self._forwards += 1
        return number

    def forget(self, number: int) -> None:
        """The features of this number are gone without a term."""
        self._projected.pop(number, None)

    def report_to(self, ledger: TaskGradient, *, probe: Tensor | None) -> None:
        """Tell a ledger what is read, by the hooks or by the probe of a compiled graph."""
        if self._ledger is None:
            self._ledger = ledger
            self._probed = probe is not None
            if probe is not None:
                ledger.read_probe(probe)

    def term_came(self, scale: Tensor, numbers: Sequence[int], own: dict[int, Tensor]) -> None:
        """The backward has come to a term for forwards of these numbers; ``own`` is what it sends to their features."""
        if self._ledger is None:
            return
        self._ledger.add_weight(scale, first=not self._came)
        self._came = True
        self._counted = True
        if self._probed:
            self._ledger.expect_probe(self._close)
            return
        known = self._own if self._awaited else {}
        self._own = {number: known[number] + sent if number in known else sent for number, sent in own.items()}
        self._awaited |= set(numbers)

    def gradient_came(self, number: int, gradient: Tensor | None) -> None:
        """The backward has come to the features of this number; a pass without the term teaches nothing."""
        if number not in self._awaited or self._ledger is None:
            return
        self._awaited.discard(number)
        own = self._own.pop(number, None)
        known = self._projected.pop(number, None)
        if gradient is None:  # nothing of the task came back to these features
            self._ledger.add_norm(torch.zeros((), device="cpu"))
        else:
            task = gradient.detach().float()
            task = task if own is None else task - own.float()
            self._ledger.add_norm(task.norm(), None if known is None else sums_over_rows(known[0], task, known[1]))
        if not self._awaited:
            self._came = False

    def _through(self, *_: Any) -> None:
        self.closed = True

    def _close(self) -> None:
        self.closed = True
        self._came = False


class _Reader:
    """A tensor hook that knows its pass and not its tensor: one that did would keep the tensor alive for ever."""

    def __init__(self, record: PassRecord, number: int) -> None:
        self._record = record
        self._number = number

    def __call__(self, gradient: Tensor | None) -> None:
        self._record.gradient_came(self._number, gradient)


class _HandOver(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, record: PassRecord, climbed: bool, numbers: Sequence[int], *pairs: Tensor | None
    ) -> Tensor:
        ctx.record = record
        ctx.climbed = climbed
        ctx.numbers = numbers
        ctx.forms = [(part.shape, part.dtype, part.device) for part in pairs[::2] if part is not None]
        ctx.save_for_backward(*pairs[1::2])  # freed with the user's graph, however long he keeps the loss
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (scale,) = grad_outputs
        # Groups are brought together also where the loss has a factor below 0, or its gradient is climbed.
        factor = -scale.abs() if ctx.climbed else scale.abs()
        scaled = ctx.saved_tensors
        if not (is_free_to_read(factor) and factor == 1):
            scaled = [None if gradient is None else gradient * factor.to(gradient) for gradient in scaled]
        sent = zip(ctx.numbers, scaled, strict=False)
        own = {number: gradient for number, gradient in sent if gradient is not None}
        ctx.record.term_came(scale.detach(), ctx.numbers, own)
        handed: list[Tensor | None] = [None] * 4
        # A compiled backward pass adds up what comes to a tensor and stumbles over nothing, where an eager one passes it by.
        compiled = in_compiled_backward()
        for gradient, (shape, dtype, device) in zip(scaled, ctx.forms, strict=True):
            nothing = torch.zeros((), dtype=dtype, device=device).expand(shape) if compiled else None
            handed += [nothing if gradient is None else gradient, None]
        return tuple(handed)


def hand_over(
    value: Tensor,
    record: PassRecord,
    features: Sequence[tuple[int, Tensor, Tensor | None]],
    parameters: Sequence[tuple[Tensor, Tensor]],
    *,
    climbed: bool = False,
) -> Tensor:
    """A scalar equal to ``value`` whose gradient at each given tensor is the one given with it.

    The sign of the factor by which the scalar is multiplied plays no part.

    Args:
        value: detached scalar tensor.
        record: is told the factor by which the scalar is scaled in the backward pass.
        features: the task features that are read: their number in the pass, the tensor, and its gradient or None. Those with
            None still come after this node in the backward pass, so that their hooks find the record prepared.
        parameters: parameters of the extractor, each with its gradient.
        climbed: give the gradients with the other sign, for an optimiser that goes up the gradient.

    Returns:
        A scalar tensor.
    """
    numbers = [number for number, _, _ in features]
    pairs = [part for pair in (*((each, gradient) for _, each, gradient in features), *parameters) for part in pair]
    result: Tensor = _HandOver.apply(value, record, climbed, numbers, *pairs)
    return result


def with_pull(loss: Tensor, term: Tensor) -> Tensor:
    """The loss, bit for bit, with the gradient of ``loss + term``.

    Args:
        loss: of any shape; every entry carries the term, so that the gradient of its mean is that of the mean and the term.
        term: scalar.
    """
    nothing = (term.detach() - term).to(loss.dtype)  # 0.0, and subtracting that keeps even a -0.0
    return loss - nothing


class Probe:
    """A leaf whose gradient is what is measured in a compiled graph, and what is needed to measure it.

    Args:
        feature_dim: width of the features; None where it is not known, and the norm alone is measured.
        device: where the features are.

    Attributes:
        leaf: gets the squared norm of the gradient that comes back to the features, and the sums that tell its coherence.
    """

    def __init__(self, feature_dim: int | None, device: torch.device) -> None:
        self.feature_dim = feature_dim
        count = 0 if feature_dim is None else count_of_sums(feature_dim)
        self.leaf = torch.zeros(1 + count, device=device, requires_grad=True)
        known = None if feature_dim is None else projections(feature_dim, device)
        self.of_features: Tensor | None = None if known is None else known[0]
        self.of_gradients: Tensor | None = None if known is None else known[1]

    def on(self, device: torch.device) -> "Probe":
        """This one, or one on another device."""
        return self if self.leaf.device == device else Probe(self.feature_dim, device)


class _Measure(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, leaf: Tensor, of_features: Tensor | None, of_gradients: Tensor | None) -> Tensor:
        ctx.count = leaf.numel() - 1
        ctx.known = ctx.count > 0 and features.ndim == 2
        if ctx.known:
            ctx.save_for_backward(projected(features, of_features), of_gradients)
        return features.clone()  # a view could not be worked on in place by the layer behind

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient = gradients[0].float()
        square = gradient.norm().square()[None]
        if ctx.known:
            features, of_gradients = ctx.saved_tensors
            sums = sums_over_rows(features, gradient, of_gradients)
        else:
            sums = square.new_full((ctx.count,), torch.nan)
        return gradients[0], torch.cat([square, sums]), None, None


def measured(features: Tensor, probe: Probe) -> Tensor:
    """The same features; the leaf of ``probe`` gets what is measured of the gradient that comes back to them.

    Unlike a hook it stays valid inside a compiled graph, where gradients between two compiled layers are seen by nobody. What
    several forwards measure adds up, as it does in one concatenated batch.

    Args:
        features: any shape.
        probe: on the device of the features.
    """
    result: Tensor = _Measure.apply(features, probe.leaf, probe.of_features, probe.of_gradients)
    return result
