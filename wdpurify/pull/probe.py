"""Probe: measures the gradient at the features inside a compiled graph, where hooks on inner tensors are not called."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .coherence import count_of_sums, project, projections, sums_over_rows

#: Receives the norm of the gradient and its sums over rows; None if unknown, or if another pass receives them.
Report = Callable[[Tensor | None, Tensor | None], None]


class Probe:
    """A leaf tensor whose ``.grad`` receives a measurement: squared norm and sums over rows of the gradient at the features.

    Autograd adds up the measurements of several forwards, so they equal those of one concatenated batch.

    Args:
        feature_dim: width of the features; if None, only the norm is measured.
        device: device of the features.
    """

    def __init__(self, feature_dim: int | None, device: torch.device) -> None:
        self._feature_dim = feature_dim
        count = 0 if feature_dim is None else count_of_sums(feature_dim)
        self.leaf = torch.zeros(1 + count, device=device, requires_grad=True)
        pair = None if feature_dim is None else projections(feature_dim, device)
        self.of_features: Tensor | None = None if pair is None else pair[0]
        self.of_gradients: Tensor | None = None if pair is None else pair[1]
        self._expecting: list[Report] = []
        self._listens = False

    def to(self, device: torch.device) -> "Probe":
        """Return this probe, or a new one if the device differs."""
        return self if self.leaf.device == device else Probe(self._feature_dim, device)

    def listen(self) -> None:
        """Hook the leaf; call this before the backward pass, which may be compiled."""
        if not self._listens:
            self._listens = True
            self.leaf.register_hook(self._report)
            self.leaf.register_post_accumulate_grad_hook(_drop_gradient)

    def report_next(self, report: Report) -> None:
        """Call ``report`` with the next gradient of the leaf, after the backward pass has reached a term."""
        self._expecting.append(report)

    def _report(self, read: Tensor) -> None:
        read = read.detach()
        expecting, self._expecting = self._expecting, []
        for report in expecting[:1]:  # passes that share the leaf share one sum; the first one receives it
            report(read[0].sqrt(), read[1:] if len(read) > 1 else None)
        for report in expecting[1:]:
            report(None, None)


def _drop_gradient(leaf: Tensor) -> None:
    leaf.grad = None


class _Measure(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, leaf: Tensor, of_features: Tensor | None, of_gradients: Tensor | None) -> Tensor:
        ctx.count = leaf.numel() - 1
        ctx.has_sums = ctx.count > 0 and features.ndim == 2
        if ctx.has_sums:
            ctx.save_for_backward(project(features, of_features), of_gradients)
        return features.clone()  # the next layer may work in place, which autograd refuses on a view

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient = gradients[0].float()
        square = gradient.norm().square()[None]
        if ctx.has_sums:
            features, of_gradients = ctx.saved_tensors
            sums = sums_over_rows(features, gradient, of_gradients)
        else:
            sums = square.new_full((ctx.count,), torch.nan)
        return gradients[0], torch.cat([square, sums]), None, None


def measure_gradient(features: Tensor, probe: Probe) -> Tensor:
    """Return the features unchanged; their gradient is measured and added to the leaf of ``probe``.

    Args:
        features: any shape.
        probe: a probe on the device of the features.
    """
    result: Tensor = _Measure.apply(features, probe.leaf, probe.of_features, probe.of_gradients)
    return result
