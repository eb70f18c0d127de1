"""Injects the pull into the user's backward pass: the term is an autograd node that emits precomputed gradients.

The gradients of the purify term are known before the user calls ``backward()``. The node emits them times the factor of the
term in the loss. The task gradient is the gradient that arrives at the task features in the same backward pass, minus the
part that the term sent there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import in_compiled_backward, is_accumulated, is_batched, is_free_to_read

from .passes import Forward, Pass
from .task_gradient import TaskGradients


class _Inject(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        owner: Pass,
        gradients: TaskGradients,
        climbs: bool,
        numbers: Sequence[int],
        *pairs: Tensor | None,
    ) -> Tensor:
        ctx.owner = owner
        ctx.gradients = gradients
        ctx.climbs = climbs
        ctx.numbers = numbers
        ctx.forms = [(part.shape, part.dtype, part.device) for part in pairs[::2] if part is not None]
        ctx.save_for_backward(*pairs[1::2])  # freed with the user's graph, even if the loop keeps the loss
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (scale,) = grad_outputs
        # The pull always brings the groups together, even if the loss has a negative factor or the optimiser maximises.
        factor = -scale.abs() if ctx.climbs else scale.abs()
        scaled = ctx.saved_tensors
        compiled = in_compiled_backward()
        batched = is_batched(scale)  # `is_grads_batched=True`
        if batched or not (is_free_to_read(factor) and factor == 1):
            scaled = [None if gradient is None else gradient * factor.to(gradient) for gradient in scaled]
        if not batched:
            at_features = enumerate(scaled[: len(ctx.numbers)])
            sent = {ctx.numbers[place]: gradient for place, gradient in at_features if gradient is not None}
            gradients: TaskGradients = ctx.gradients
            counts = compiled or is_accumulated(node for node, _ in ctx.next_functions)
            into = gradients.accumulated if counts else gradients.asked_for
            ctx.owner.record_term(scale.detach(), ctx.numbers, sent, into, gradients.nothing)
        else:
            ctx.gradients.batched = True
        emitted: list[Tensor | None] = [None] * 5
        # A compiled backward pass adds up all gradients of a tensor and fails on None, which an eager one skips.
        for gradient, (shape, dtype, device) in zip(scaled, ctx.forms, strict=True):
            nothing = torch.zeros((), dtype=dtype, device=device).expand(shape) if compiled else None
            emitted += [nothing if gradient is None else gradient, None]
        return tuple(emitted)


def inject_gradients(
    value: Tensor,
    owner: Pass,
    gradients: TaskGradients,
    forwards: Sequence[tuple[Forward, Tensor | None]],
    parameters: Sequence[tuple[Tensor, Tensor]],
    *,
    climbs: bool = False,
) -> Tensor:
    """Make a scalar equal to ``value`` whose backward pass emits the given gradients.

    The gradients are multiplied by the magnitude of the scalar's factor in the loss; the sign of the factor has no effect.

    Args:
        value: detached scalar tensor.
        owner: the pass of the term; the backward pass reports the scalar's factor to it.
        gradients: receive the measured task gradient.
        forwards: the forwards whose features the term reads, each with the gradient at them or None. Also those with None run
            after this node in the backward pass, so that their hooks run after the pass knows the factor.
        parameters: parameters of the extractor, each with its gradient.
        climbs: emit the gradients with the opposite sign, for an optimiser with ``maximize=True``.

    Returns:
        A scalar tensor.
    """
    numbers = [number for (number, _), _ in forwards]
    pairs = [part for (_, features), gradient in forwards for part in (features, gradient)]
    pairs += [part for pair in parameters for part in pair]
    if owner.probe is not None:
        owner.probe.listen()
    result: Tensor = _Inject.apply(value, owner, gradients, climbs, numbers, *pairs)
    return result


def add_term(loss: Tensor, term: Tensor) -> Tensor:
    """Return the loss with an unchanged value and the gradient of ``loss + term``.

    Args:
        loss: of any shape; every entry carries the term, so the mean of the entries carries it once.
        term: scalar.
    """
    nothing = (term.detach() - term).to(loss.dtype)  # 0.0, and subtracting that keeps even a -0.0
    return loss - nothing
