"""Reads and writes a classifier layer as matrix and bias: linear layers, 1x1 convolutions, LoRA around either."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

#: Largest relative error of a written layer on random rows, per dtype of its weights.
TOLERANCE = {torch.float16: 0.02, torch.bfloat16: 0.1, torch.float64: 1e-6}
USUAL_TOLERANCE = 1e-3
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class AffineLayer:
    """The affine map of a classifier layer.

    Args:
        layer: a linear layer or a 1x1 convolution, or an adapter library's layer around one (``base_layer``).
        model: the model of the layer; :meth:`write` first copies what another layer of the model shares.

    Attributes:
        dim: input width.
        weight: float64 on the CPU, shape ``(outputs, dim)``.
        bias: float64 on the CPU, shape ``(outputs,)``; None for a layer without a bias.

    Raises:
        ValueError: for any other layer; the message states the alternative.
    """

    def __init__(self, layer: nn.Module, model: nn.Module | None = None) -> None:
        self._layer = layer
        self._model = model
        self._plain = _plain_layer(layer)
        weight = self._plain._parameters["weight"]
        assert weight is not None
        self._device, self._dtype = weight.device, weight.dtype
        self.dim = weight.shape[1]
        self._axes = (1,) * (weight.ndim - 2)
        # Without the layer's own bias, beside which half precision would round the weights away.
        origin, *slopes = self._results(torch.cat([torch.zeros(1, self.dim), torch.eye(self.dim)]), with_bias=False)
        bias = self._plain._parameters.get("bias")
        self.has_bias = bias is not None
        self.bias = None if bias is None else origin + bias.detach().double().cpu()
        self.weight = torch.stack(slopes, dim=1) - origin[:, None]
        self._check(torch.Generator("cpu").manual_seed(0))

    def __call__(self, rows: Tensor) -> Tensor:
        """Compute the scores of rows ``(rows, dim)``, float64."""
        scores: Tensor = rows @ self.weight.T
        return scores if self.bias is None else scores + self.bias

    @torch.no_grad()
    def write(self, weight: Tensor, bias: Tensor | None) -> None:
        """Write a new matrix and, for a layer with a bias, a new bias into the layer; all or nothing.

        Raises:
            ValueError: if the layer does not compute the new map afterwards; its former weights are then restored.
        """
        former_parameters = dict(self._plain._parameters)
        self._untie()
        parameters = {"weight": (self.weight, weight), "bias": (self.bias, bias)}
        held = {name: self._plain._parameters[name] for name, (_, new) in parameters.items() if new is not None}
        before = {name: parameter.clone() for name, parameter in held.items() if parameter is not None}
        kept = self.weight, self.bias
        for name, former in before.items():
            old, new = parameters[name]
            assert old is not None
            assert new is not None
            # An adapter adds its part to the plain weight, so the plain weight changes by the difference only.
            wanted = new if self._plain is self._layer else former.double().cpu().reshape(new.shape) + (new - old)
            self._plain._parameters[name].copy_(wanted.reshape(former.shape))  # type: ignore[union-attr]
        self.weight, self.bias = weight, bias
        try:
            self._check(torch.Generator("cpu").manual_seed(1))
        except ValueError:
            for name, former in before.items():
                self._plain._parameters[name].copy_(former)  # type: ignore[union-attr]
            self._plain._parameters.update(former_parameters)
            self.weight, self.bias = kept
            raise

    def _untie(self) -> None:
        """Copy the layer's parameters that another layer of the model shares, such as an embedding."""
        others = [] if self._model is None else [part for part in self._model.modules() if part is not self._plain]
        shared = {id(parameter) for part in others for parameter in part._parameters.values()}
        for name, own in self._plain._parameters.items():
            if own is not None and id(own) in shared:
                self._plain._parameters[name] = nn.Parameter(own.detach().clone(), requires_grad=own.requires_grad)

    @torch.no_grad()
    def _results(self, rows: Tensor, *, with_bias: bool = True) -> Tensor:
        """Run the layer on rows ``(rows, dim)``; returns float64, shape ``(rows, outputs)``."""
        given = rows.to(self._device, self._dtype).reshape(*rows.shape, *self._axes)
        bias = self._plain._parameters.get("bias")
        if bias is not None and not with_bias:
            self._plain._parameters["bias"] = nn.Parameter(torch.zeros_like(bias), requires_grad=False)
        try:
            with evaluating(self._layer), torch.autocast(given.device.type, enabled=False):
                scores: Tensor = self._layer(given)
        finally:
            if bias is not None:
                self._plain._parameters["bias"] = bias
        return scores.double().cpu().reshape(len(rows), -1)

    def _check(self, generator: torch.Generator) -> None:
        rows = torch.randn((8, self.dim), generator=generator, dtype=torch.float64)
        results, expected = self._results(rows), self(rows)
        tolerance = TOLERANCE.get(self._dtype, USUAL_TOLERANCE)
        if not (results.shape == expected.shape and (results - expected).norm() <= tolerance * expected.norm() + 1e-12):
            raise ValueError(_refusal(self._layer, "does not compute the affine map of its weight and bias"))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode for a block and restore each submodule's mode after it, without a call of ``train()``."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _plain_layer(layer: nn.Module) -> nn.Module:
    """Return the layer that holds the weight: the layer itself, or the base layer of an adapter."""
    base = getattr(layer, "base_layer", None)
    plain = _plain_layer(base) if isinstance(base, nn.Module) else layer
    weight = plain._parameters.get("weight")
    if weight is None or type(weight) is not nn.Parameter or not weight.is_floating_point():
        raise ValueError(_refusal(layer, "has no plain weight (it is a block, or parametrised, quantised or sharded)"))
    if isinstance(plain, _CONVOLUTIONS):
        is_padded = plain.padding not in ("valid", "same") and set(plain.padding) != {0}
        if set(plain.kernel_size) != {1} or plain.groups != 1 or set(plain.stride) != {1} or is_padded:
            why = "is a convolution with a kernel larger than 1, with groups, with a stride or with padding"
            raise ValueError(_refusal(layer, why))
    elif weight.ndim != 2 or not isinstance(getattr(plain, "in_features", getattr(plain, "in_channels", None)), int):
        raise ValueError(_refusal(layer, "is not a linear layer"))
    return plain


def _refusal(layer: nn.Module, why: str) -> str:
    return (
        f"the eraser cannot be folded into {type(layer).__name__}, because it {why}. Call the eraser before your classifier: "
        "`eraser = purify.eraser()`, then `head(eraser(features))`"
    )
