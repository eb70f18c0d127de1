"""A classifier layer as a matrix and a bias, read and written in place: linear layers, 1x1 convolutions, LoRA around either."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

#: Largest error of a written layer on random rows, as a share of the size of its results, by the precision of its weights.
TOLERANCE = {torch.float16: 0.02, torch.bfloat16: 0.1, torch.float64: 1e-6}
USUAL_TOLERANCE = 1e-3
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class AffineLayer:
    """The affine map of a classifier's layer.

    Args:
        layer: a linear layer or a 1x1 convolution, or a layer of an adapter library around one (``base_layer``).
        model: the model that it is part of; a weight that another of its layers shares is copied before it is written.

    Attributes:
        dim: width of what it reads.
        weight: float64 on the CPU, shape ``(outputs, dim)``.
        bias: float64 on the CPU, shape ``(outputs,)``; None where it has none.

    Raises:
        ValueError: for any other layer, with what to do instead.
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
        self.has_bias = self._plain._parameters.get("bias") is not None
        origin, *slopes = self._results(torch.cat([torch.zeros(1, self.dim), torch.eye(self.dim)]))
        self.bias = origin if self.has_bias else None
        self.weight = torch.stack(slopes, dim=1) - origin[:, None]
        self._check(torch.Generator("cpu").manual_seed(0))

    def __call__(self, rows: Tensor) -> Tensor:
        """Scores of rows ``(rows, dim)``, float64."""
        scores: Tensor = rows @ self.weight.T
        return scores if self.bias is None else scores + self.bias

    @torch.no_grad()
    def write(self, weight: Tensor, bias: Tensor | None) -> None:
        """Give the layer another matrix and, where it has one, another bias; all or nothing.

        Raises:
            ValueError: if the layer does not compute the new map afterwards; it is then what it was.
        """
        shared = self._plain._parameters["weight"]
        self._untie()
        parameters = {"weight": (self.weight, weight), "bias": (self.bias, bias)}
        held = {name: self._plain._parameters[name] for name, (_, new) in parameters.items() if new is not None}
        before = {name: parameter.clone() for name, parameter in held.items() if parameter is not None}
        kept = self.weight, self.bias
        for name, former in before.items():
            old, new = parameters[name]
            assert old is not None
            assert new is not None
            # What adapters add stays added: the plain weight takes the difference.
            moved = new if self._plain is self._layer else former.double().cpu().reshape(new.shape) + (new - old)
            self._plain._parameters[name].copy_(moved.reshape(former.shape))  # type: ignore[union-attr]
        self.weight, self.bias = weight, bias
        try:
            self._check(torch.Generator("cpu").manual_seed(1))
        except ValueError:
            for name, former in before.items():
                self._plain._parameters[name].copy_(former)  # type: ignore[union-attr]
            self._plain._parameters["weight"] = shared
            self.weight, self.bias = kept
            raise

    def _untie(self) -> None:
        """Give the layer a weight of its own where another layer of the model reads the same, such as an embedding."""
        weight = self._plain._parameters["weight"]
        others = [] if self._model is None else [part for part in self._model.modules() if part is not self._plain]
        if any(parameter is weight for part in others for parameter in part._parameters.values()):
            assert weight is not None
            self._plain.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)

    @torch.no_grad()
    def _results(self, rows: Tensor) -> Tensor:
        """What the layer makes of rows ``(rows, dim)``, float64, shape ``(rows, outputs)``."""
        given = rows.to(self._device, self._dtype).reshape(*rows.shape, *self._axes)
        with evaluating(self._layer), torch.autocast(given.device.type, enabled=False):
            found: Tensor = self._layer(given)
        return found.double().cpu().reshape(len(rows), -1)

    def _check(self, generator: torch.Generator) -> None:
        rows = torch.randn((8, self.dim), generator=generator, dtype=torch.float64)
        found, expected = self._results(rows), self(rows)
        tolerance = TOLERANCE.get(self._dtype, USUAL_TOLERANCE)
        if not (found.shape == expected.shape and (found - expected).norm() <= tolerance * expected.norm() + 1e-12):
            raise ValueError(_refusal(self._layer, "does not compute what its weight and bias say"))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a block; each part of the module is in its own mode afterwards, and its ``train()`` is not called."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _plain_layer(layer: nn.Module) -> nn.Module:
    """The layer that holds the weight: the layer itself, or the one that an adapter is around."""
    base = getattr(layer, "base_layer", None)
    plain = _plain_layer(base) if isinstance(base, nn.Module) else layer
    weight = plain._parameters.get("weight")
    if weight is None or type(weight) is not nn.Parameter or not weight.is_floating_point():
        raise ValueError(_refusal(layer, "has no plain weight of its own (it is deep, parametrised, quantised or sharded)"))
    if isinstance(plain, _CONVOLUTIONS):
        if set(plain.kernel_size) != {1} or plain.groups != 1 or set(plain.stride) != {1}:
            raise ValueError(_refusal(layer, "is a convolution over more than one place"))
    elif weight.ndim != 2 or not isinstance(getattr(plain, "in_features", None), int):
        raise ValueError(_refusal(layer, "is no linear layer"))
    return plain


def _refusal(layer: nn.Module, why: str) -> str:
    return (
        f"the eraser cannot be folded into {type(layer).__name__}, which {why}. Put it in front of your classifier instead: "
        "`eraser = purify.eraser()`, then `head(eraser(features))`"
    )
