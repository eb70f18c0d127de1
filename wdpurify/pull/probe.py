"""Probe: measures the gradient at the features inside a compiled graph, where hooks on inner tensors are not called."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .coherence import count_of_sums, projected, projections, sums_over_rows

#: Gets the norm of the gradient and its sums over rows; None where these are not known, or told to another pass.
Report = Callable[[Tensor | None, Tensor | None], None]


class Probe:
    """A leaf whose gradient is what is measured: the squared norm of the gradient at the features, and its sums over rows.

    What several forwards measure adds up, as it does in one concatenated batch.

    Args:
        feature_dim: width of the features; None where it is not known, and the norm alone is measured.
        device: where the features are.
    """

    def __init__(self, feature_dim: int | None, device: torch.device) -> None:
        self._feature_dim = feature_dim
        count = 0 if feature_dim is None else count_of_sums(feature_dim)
        self.leaf = torch.zeros(1 + count, device=device, requires_grad=True)
        known = None if feature_dim is None else projections(feature_dim, device)
        self.of_features: Tensor | None = None if known is None else known[0]
        self.of_gradients: Tensor | None = None if known is None else known[1]
        self._expecting: list[Report] = []
        self._listens = False

    def on(self, device: torch.device) -> "Probe":
        """This one, or one on another device."""
        return self if self.leaf.device == device else Probe(self._feature_dim, device)

    def listen(self) -> None:
        """Hook the leaf, before a backward pass, which may be compiled."""
        if not self._listens:
            self._listens = True
            self.leaf.register_hook(self._came)
            self.leaf.register_post_accumulate_grad_hook(_drop_gradient)

    def expect(self, report: Report) -> None:
        """A term came: the next gradient of the leaf is of a pass with a term, and ``report`` is called with it."""
        self._expecting.append(report)

    def _came(self, read: Tensor) -> None:
        read = read.detach()
        expecting, self._expecting = self._expecting, []
        for report in expecting[:1]:  # several passes share one leaf, and what came is the sum of theirs
            report(read[0].sqrt(), read[1:] if len(read) > 1 else None)
        for report in expecting[1:]:
            report(None, None)


def _drop_gradient(leaf: Tensor) -> None:
    leaf.grad = None


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

    Args:
        features: any shape.
        probe: on the device of the features.
    """
    result: Tensor = _Measure.apply(features, probe.leaf, probe.of_features, probe.of_gradients)
    return result
