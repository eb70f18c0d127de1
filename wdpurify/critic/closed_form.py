"""Gradients of the critic's loss in closed form, in half the time of autograd: for a small network the graph costs most."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .constraints import GradientPenalty
from .network import Critic

_leaky_relu_backward = torch.ops.aten.leaky_relu_backward


class ClosedForm:
    """The loss ``penalty - (scores * weights).sum()`` of the default critic on one batch, for a number of updates.

    Make it with :func:`closed_form`. Everything that does not depend on the critic's weights is computed once.

    Args:
        linears: the critic's linear layers; updates must change their weights in place.
        slopes: slopes below 0 of the activations between them.
        features: shape ``(batch, dim)``.
        weights: factors of the scores, shape ``(batch, n_groups)``.
        points, outputs: where the slope is penalised in each update, and of which output (-1: none), as from
            ``GradientPenalty.points``.
        penalty: factor of the penalty.
    """

    def __init__(
        self,
        linears: Sequence[nn.Linear],
        slopes: Sequence[float],
        features: Tensor,
        weights: Tensor,
        points: Tensor,
        outputs: Tensor,
        penalty: float,
    ) -> None:
        self._slopes = slopes
        self._weights = [linear.weight for linear in linears]
        self._transposed = [weight.T for weight in self._weights]
        self._biases = [linear.bias for linear in linears]
        self._features = features
        self._at_scores = -weights
        self._points = points.unbind()
        self._outputs = outputs.clamp(min=0).unbind()
        kept = (outputs >= 0).float()
        self._shares = (kept * penalty / kept.sum(1, keepdim=True).clamp(min=1)).unbind()

    @torch.no_grad()
    def gradients(self, update: int) -> list[Tensor]:
        """Compute the gradient of each parameter, in the order of ``critic.parameters()``; equal to autograd's.

        Args:
            update: number of the update, from 0.
        """
        gradients = self._of_scores()
        for number, gradient in enumerate(self._of_penalty(update)):
            gradients[2 * number] = gradients[2 * number] + gradient
        return gradients

    def _forward(self, rows: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Compute the input of each linear layer, and the input of each activation."""
        inputs, before = [rows], []
        for bias, transposed, slope in zip(self._biases[:-1], self._transposed, self._slopes, strict=False):
            before.append(torch.addmm(bias, inputs[-1], transposed))
            inputs.append(nn.functional.leaky_relu(before[-1], slope))
        return inputs, before

    def _of_scores(self) -> list[Tensor]:
        """Back-propagate the gradient at the scores to all parameters."""
        inputs, before = self._forward(self._features)
        gradient, gradients = self._at_scores, list[Tensor]()
        for number in reversed(range(len(inputs))):
            gradients = [gradient.T @ inputs[number], gradient.sum(0), *gradients]
            if number > 0:
                at, slope = before[number - 1], self._slopes[number - 1]
                gradient = _leaky_relu_backward(gradient @ self._weights[number], at, slope, False)
        return gradients

    def _of_penalty(self, update: int) -> list[Tensor]:
        """Compute the penalty's gradients at the weight matrices.

        The activations are linear on both sides of 0. So their slopes are constants, and the biases have no gradient.
        """
        _, before = self._forward(self._points[update])
        slope_rows, at_layers = self._weights[-1][self._outputs[update]], list[Tensor]()
        for weight, at, slope in reversed(list(zip(self._weights[:-1], before, self._slopes, strict=True))):
            at_layers.append(_leaky_relu_backward(slope_rows, at, slope, False))
            slope_rows = at_layers[-1] @ weight
        norms = (slope_rows.square().sum(1) + 1e-12).sqrt()
        rows = slope_rows * (self._shares[update] * (2.0 * (norms - 1.0)) / norms)[:, None]
        gradients = []
        for transposed, at, slope, above in zip(self._transposed, before, self._slopes, reversed(at_layers), strict=False):
            gradients.append(above.T @ rows)
            rows = _leaky_relu_backward(rows @ transposed, at, slope, False)
        last = torch.zeros_like(self._weights[-1])
        if len(last) == 1:  # another sum than below, in the last bit
            return [*gradients, torch.ones_like(rows[:, :1]).T @ rows]
        return [*gradients, last.index_put((self._outputs[update],), rows, accumulate=True)]


def closed_form(
    critic: nn.Module,
    features: Tensor,
    weights: Tensor,
    constraint: object,
    groups: Tensor,
    population: Tensor,
    *,
    generator: torch.Generator | None,
    updates: int,
) -> ClosedForm | None:
    """Make the closed form of a critic's loss on one batch, for a number of updates.

    Args:
        critic: the critic.
        features: shape ``(batch, dim)``.
        weights: factors of the scores, shape ``(batch, n_groups)``.
        constraint: gives the penalty.
        groups, population: as in ``Constraint.penalty``, and so is ``generator``.
        updates: number of updates on this batch, at least 1.

    Returns:
        None where the formula does not apply: for another constraint than :class:`GradientPenalty`, for activations that are
        not linear on both sides of 0, for layers other than plain trained ``nn.Linear`` with a bias, for shared or further
        parameters, and for hooks.
    """
    layers = _layers(critic)
    if layers is None or type(constraint) is not GradientPenalty:
        return None
    points, outputs = constraint.points(features, groups, population, generator=generator, count=updates)
    with torch.no_grad():
        return ClosedForm(*layers, features, weights, points, outputs, constraint.weight)


def _layers(critic: nn.Module) -> tuple[list[nn.Linear], list[float]] | None:
    """The linear layers of a critic, and the slopes of its activations below 0; None if anything else may act on its loss."""
    layers = list(critic) if type(critic) is Critic else []
    linears = [layer for layer in layers[::2] if type(layer) is nn.Linear and layer._parameters.keys() == {"weight", "bias"}]
    slopes = [
        float(layer.negative_slope) if isinstance(layer, nn.LeakyReLU) else 0.0
        for layer in layers[1::2]
        if type(layer) in (nn.LeakyReLU, nn.ReLU)
    ]
    if not layers or len(linears) + len(slopes) < len(layers):
        return None
    parameters = list(critic.parameters())
    expected = [parameter for linear in linears for parameter in (linear.weight, linear.bias)]
    is_plain = list(map(id, parameters)) == list(map(id, expected)) and all(each.requires_grad for each in parameters)
    is_hooked = any(parameter._backward_hooks for parameter in parameters) or any(map(_is_changed, (critic, *layers)))
    return (linears, slopes) if is_plain and not is_hooked else None


def _is_changed(module: nn.Module) -> bool:
    """Whether a module has hooks, or a ``forward`` of its own."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)
