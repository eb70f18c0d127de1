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
    """What one ``loss()`` learns during the backward pass: by which factor the user scaled it, and the task gradient's size.

    Args:
        observe: called once with the norm of the task gradient at the features as it came, and that factor.
    """

    def __init__(self, observe: Callable[[Tensor, Tensor], None]) -> None:
        self._observe = observe
        self.scale: Tensor | None = None

    def scaled_norm(self, norm: Tensor) -> None:
        """Take the norm as it came in the backward pass; without a scale the term was not part of that pass."""
        scale, self.scale = self.scale, None  # a second backward pass without the term has no scale of its own
        if scale is not None:
            self._observe(norm, scale)


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
    result: Tensor = _Inject.apply(value, record, *(part for pair in pairs for part in pair))
    return result


def watch_task_gradient(features: Tensor, record: BackwardRecord, own: Tensor | None) -> None:
    """Report the task gradient at ``features`` once the user's backward pass gets there.

    Args:
        features: the tensor that the task's head reads; must require grad.
        record: the record of the term injected into ``features``.
        own: the purify gradient at ``features`` of this term, or None.
    """

    def hook(gradient: Tensor | None) -> None:
        if record.scale is not None:
            # None: nothing of the task came back to these features, which is worth a warning rather than a crash.
            total = torch.zeros((), device=features.device) if gradient is None else gradient.detach().float()
            record.scaled_norm((total if own is None else total - own.float() * record.scale.float()).norm())

    features.register_hook(hook)


class _Measure(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, probe: Tensor) -> Tensor:
        return features.clone()  # a view could not be worked on in place by the layer behind

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], gradients[0].float().norm()


def measured(features: Tensor, probe: Tensor) -> Tensor:
    """The same features; ``probe`` gets the norm of the gradient that comes back to them as its own gradient.

    Unlike a hook it stays valid inside a compiled graph, where gradients between two compiled layers are seen by nobody.

    Args:
        features: any shape.
        probe: a leaf scalar that requires grad.
    """
    result: Tensor = _Measure.apply(features, probe)
    return result
