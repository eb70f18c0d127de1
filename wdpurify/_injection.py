"""A scalar with a chosen gradient: how the purify gradient enters the user's backward pass, and how the task's is seen there.

The gradient of the purify term at the features is known before the user calls ``backward()``, for it needs the critic
alone. So its size can be set exactly, and the term that the user adds to the loss only has to hand it over. A hook on the
task features then sees the sum of task and purify gradient, from which the task gradient follows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class BackwardRecord:
    """What one ``loss()`` learns during the backward pass: the factor by which the user scaled the term."""

    def __init__(self) -> None:
        self.scale: Tensor | None = None


class _Inject(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, record: BackwardRecord, *pairs: Tensor | None) -> Tensor:
        ctx.record, ctx.gradients = record, pairs[1::2]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (scale,) = grad_outputs
        ctx.record.scale = scale.detach()
        handed: list[Tensor | None] = [None, None]
        for gradient in ctx.gradients:
            handed += [None if gradient is None else gradient * scale.to(gradient), None]
        return tuple(handed)


def inject(value: Tensor, record: BackwardRecord, *pairs: tuple[Tensor, Tensor | None]) -> Tensor:
    """A scalar equal to ``value`` whose gradient at each given tensor is the gradient given with it.

    Args:
        value: detached scalar tensor.
        record: gets the incoming gradient (loss scale over accumulation divisor) in the backward pass.
        *pairs: tensors of the graph, each with its gradient (of the same shape) or None for no gradient. Tensors with None
            still come after this node in the backward pass, so that their hooks find the record filled.

    Returns:
        A scalar tensor.
    """
    result: Tensor = _Inject.apply(value, record, *(part for pair in pairs for part in pair))  # type: ignore[no-untyped-call]
    return result


def watch_task_gradient(
    features: Tensor, record: BackwardRecord, own: Tensor | None, observe: Callable[[Tensor], None]
) -> None:
    """Call ``observe`` with the task gradient at ``features`` once the user's backward pass gets there.

    Args:
        features: the tensor that the task's head reads; must require grad.
        record: the record of the term injected into ``features``.
        own: the purify gradient at ``features`` of this term, or None.
        observe: takes a tensor of the shape of ``features``, in units of the unscaled loss.
    """

    def hook(gradient: Tensor) -> None:
        if record.scale is None:  # the term was not part of this backward pass
            return
        total = gradient.detach().float() / record.scale.float()
        observe(total if own is None else total - own.float())

    features.register_hook(hook)
