"""Pools an extractor's output to the critic's input: one float32 row per sample."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from wdpurify._checks import check_choice

#: Largest usable magnitude of a feature. Rows beyond it are masked like non-finite ones, because they break critic training.
LARGEST = 1e6
#: Largest usable magnitude of a pixel: beyond it the squares in a normalisation layer overflow float32.
LARGEST_INPUT = 1e18

#: Token pooling: a name, or a function of features ``(batch, tokens, dim)`` and their mask or None.
Pool = Literal["mean", "first", "last"] | Callable[[Tensor, Tensor | None], Tensor]


def check_pool(pool: object) -> None:
    """Check the ``pool`` argument of :func:`pool_features`.

    Raises:
        ValueError: if ``pool`` is neither one of the names nor callable.
    """
    if not callable(pool):
        check_choice("pool", pool, ("mean", "first", "last"))


def check_features(features: object, feature_dim: int | None) -> None:
    """Check the ``features`` argument of :func:`pool_features`.

    Args:
        features: any object.
        feature_dim: expected width, or None to accept any.

    Raises:
        TypeError: if ``features`` is not a floating point tensor.
        ValueError: if its shape is not a documented one or its width is not ``feature_dim``.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        came = f"a {features.dtype} tensor" if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(
            f"`features` must be a floating point tensor, got {came}. Pass the classifier's input, or set `layer` to its name"
        )
    shape = tuple(features.shape)
    widths = shape[1:2] + shape[3:] if len(shape) in (2, 4) else shape[2:3]
    if len(shape) not in (2, 3, 4) or (feature_dim is not None and feature_dim not in widths):
        width = "dim" if feature_dim is None else str(feature_dim)
        raise ValueError(
            f"`features` must have shape (batch, {width}), (batch, tokens, {width}) or (batch, {width}, height, width), "
            f"got {shape}. Pass the classifier's input, or set `feature_dim`, or resize the auxiliary images to the size of "
            "the task's"
        )


def pool_features(features: Tensor, feature_dim: int | None, *, pool: Pool = "mean", mask: Tensor | None = None) -> Tensor:
    """Reduce features to shape ``(batch, dim)``, float32.

    ``(batch, dim)`` stays; ``pool`` reduces ``(batch, tokens, dim)``; the spatial mean reduces ``(batch, dim, height, width)``,
    and also ``(batch, height, width, dim)`` if only the last axis has ``feature_dim`` entries.

    Args:
        features: floating point, of one of the shapes above.
        feature_dim: expected width, or None to accept any.
        pool: for tokens: the ``"mean"`` of the unmasked ones, the ``"first"``, the last unmasked one (``"last"``), or a
            function of features and mask. A function pools features of every shape.
        mask: 1 for tokens and 0 for padding, shape ``(batch, tokens)``; None or another shape uses all tokens.

    Raises:
        TypeError, ValueError: as :func:`check_features`; ValueError if a function does not return one row per sample.
    """
    if mask is not None and mask.shape != features.shape[:2]:
        mask = None
    if callable(pool):
        return _checked_rows(pool(features, mask), features, feature_dim).float()
    check_features(features, feature_dim)
    if features.ndim == 3:
        features = _pooled_tokens(features, pool, mask)
    elif features.ndim == 4:
        if feature_dim is None and features.shape[2:] == (1, 1):
            feature_dim = features.shape[1]
        if feature_dim is None:
            raise ValueError(
                f"`feature_dim` is needed for features of shape {tuple(features.shape)}, whose channels may be the second or "
                "the last axis. Give the number of channels"
            )
        channels_last = features.shape[1] != feature_dim
        features = features.mean((1, 2) if channels_last else (2, 3))
    return features.float()


def unpooled(features: Tensor, gradient: Tensor, *, pool: Pool = "mean", mask: Tensor | None = None) -> Tensor:
    """Backpropagate a gradient at the pooled features to ``features``: float32, of their shape."""
    leaf = features.detach().float().requires_grad_()
    with torch.enable_grad():
        rows = pool_features(leaf, gradient.shape[1], pool=pool, mask=mask)
        (result,) = torch.autograd.grad(rows, leaf, gradient)
    return result


def usable_rows(rows: Tensor, *, largest: float = LARGEST) -> Tensor:
    """Mask of the rows that are finite and within ``largest``, bool, shape ``(batch,)``, without host synchronisation."""
    return (rows.abs() <= largest).reshape(len(rows), -1).all(1)


def blank_rows(features: Tensor, keep: Tensor) -> Tensor:
    """Replace the rows outside ``keep`` with zeros; a product with the mask would leave NaN, because NaN times 0 is NaN."""
    return torch.where(keep[:, None], features, torch.zeros_like(features))


def replace_rows(images: Tensor, keep: Tensor) -> Tensor:
    """Replace the rows outside ``keep`` with the first row in it, or zeros without one; no host synchronisation.

    Repeats a valid row, because a row of zeros would shift the batch statistics.
    """
    rows = torch.arange(len(keep), device=keep.device)
    replaced = images[torch.where(keep, rows, keep.float().argmax())]
    return torch.where(keep.any(), replaced, torch.zeros_like(replaced))


def _pooled_tokens(features: Tensor, pool: str, mask: Tensor | None) -> Tensor:
    if pool == "first":
        return features[:, 0]
    if mask is None:
        return features[:, -1] if pool == "last" else features.mean(1)
    counted = mask.to(features.dtype)
    if pool == "mean":
        return (features * counted[:, :, None]).sum(1) / counted.sum(1, keepdim=True).clamp(min=1)
    places = torch.arange(features.shape[1], device=features.device)
    last = (places * (mask != 0)).argmax(1)
    return features[torch.arange(len(features), device=features.device), last]


def _checked_rows(rows: object, features: object, feature_dim: int | None) -> Tensor:
    count = len(features) if isinstance(features, Tensor) else -1
    if not isinstance(rows, Tensor) or rows.ndim != 2 or len(rows) != count or feature_dim not in (None, rows.shape[1]):
        came = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        width = "dim" if feature_dim is None else feature_dim
        raise ValueError(f"`pool` must return one row of features per sample, shape ({count}, {width}), got {came}")
    return rows
