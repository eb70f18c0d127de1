"""Pools an extractor's output to the critic's input: one float32 row per sample."""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from wdpurify._checks import check_choice
from wdpurify._torch import is_free_to_read
from wdpurify.exceptions import AuxiliaryDataWarning

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
        feature_dim: expected width, or None to accept any shape of two axes or more.

    Raises:
        TypeError: if ``features`` is not a floating point tensor.
        ValueError: if its shape is not a documented one or its width is not ``feature_dim``.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        given = f"a {features.dtype} tensor" if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(
            f"`features` must be a floating point tensor, got {given}. Pass the classifier's input, or set `layer` to its name"
        )
    if features.ndim < 2 or (feature_dim is not None and not (features.ndim < 6 and _axes_of_width(features, feature_dim))):
        width = "dim" if feature_dim is None else feature_dim
        raise ValueError(
            f"`features` must have shape (batch, {width}), (batch, tokens, {width}) or (batch, {width}, ...) with one to three "
            f"axes of places, got {tuple(features.shape)}. Pass the classifier's input, or set `feature_dim`, "
            "or give `pool=` a function of features and mask that makes one row per sample, or resize the auxiliary inputs to "
            "the size of the task's"
        )


def pool_features(
    features: Tensor,
    feature_dim: int | None,
    *,
    pool: Pool = "mean",
    mask: Tensor | None = None,
    channels_first: bool | None = None,
    samples: int | None = None,
) -> Tensor:
    """Reduce features to shape ``(batch, dim)``, float32.

    ``(batch, dim)`` stays; ``pool`` reduces ``(batch, tokens, dim)`` and ``(batch, dim, time)``; the mean over all places
    reduces more axes. The width is the axis after the batch or the last axis, whichever has ``feature_dim`` entries.

    Args:
        features: floating point, of one of the shapes above.
        feature_dim: expected width, or None to accept any.
        pool: for tokens: the ``"mean"`` of the unmasked ones, the ``"first"``, the last unmasked one (``"last"``), or a
            function of features and mask. A function pools features of every shape.
        mask: 1 for tokens and 0 for padding, shape ``(batch, tokens)``; None or another shape uses all tokens.
        channels_first: whether the width is the axis after the batch, if both axes fit; the layer that reads the features
            decides it. With None, three axes are tokens, with a warning unless a mask or ``pool`` shows it. Of four or five
            axes, the channels then come first.
        samples: expected number of rows, or None to accept any.

    Raises:
        TypeError, ValueError: as :func:`check_features`; ValueError if there are not ``samples`` rows, or if a function does
            not return rows of this width.
    """
    of_tokens = mask is not None and mask.shape == features.shape[:2]
    if callable(pool):
        rows = _checked_rows(pool(features, mask if of_tokens else None), feature_dim, samples)
    else:
        check_features(features, feature_dim)
        rows = features
        if features.ndim != 2:
            tokens = features.ndim == 3 and channels_first is None and (of_tokens or pool != "mean")
            first = _is_channels_first(features, feature_dim, False if tokens else channels_first)
            places = features.flatten(2).transpose(1, 2) if first else features.flatten(1, -2)
            mask = mask if mask is not None and mask.shape == places.shape[:2] else None
            rows = _pooled_tokens(places, pool if features.ndim == 3 else "mean", mask)
        if samples is not None and len(rows) != samples:
            raise ValueError(_not_one_row_per_sample(features, samples))
    return rows.float()


def unpool(features: Tensor, gradient: Tensor, **options: Any) -> Tensor:
    """Backpropagate a gradient at the pooled features to ``features``: float32, of their shape.

    The options are ``pool``, ``mask`` and ``channels_first`` of :func:`pool_features`.
    """
    leaf = features.detach().float().requires_grad_()
    with torch.enable_grad():
        rows = pool_features(leaf, gradient.shape[1], **options)
        (result,) = torch.autograd.grad(rows, leaf, gradient)
    return result


def usable_rows(rows: Tensor, *, largest: float = LARGEST) -> Tensor:
    """Mask of the rows that are finite and within ``largest``, bool, shape ``(batch,)``, without host synchronisation."""
    return (rows.abs() <= largest).reshape(len(rows), -1).all(1)


def blank_rows(features: Tensor, keep: Tensor) -> Tensor:
    """Replace the rows outside ``keep`` with zeros; a product with the mask would leave NaN, because NaN times 0 is NaN."""
    if is_free_to_read(keep) and bool(keep.all()):
        return features
    return torch.where(keep[:, None], features, 0.0)


def replace_rows(inputs: Tensor, keep: Tensor) -> Tensor:
    """Replace the rows outside ``keep`` with the first row in it, or zeros without one; no host synchronisation.

    Repeats a valid row, because a row of zeros would shift the batch statistics. The result never shares memory with
    ``inputs``, which a model may change in place and which may come from inference mode.
    """
    if is_free_to_read(keep) and bool(keep.all()):
        return inputs.clone()
    rows = torch.arange(len(keep), device=keep.device)
    replaced = inputs[torch.where(keep, rows, keep.float().argmax())]
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


def _axes_of_width(features: Tensor, feature_dim: int) -> list[int]:
    return [axis for axis in sorted({1, features.ndim - 1}) if features.shape[axis] == feature_dim]


def _is_channels_first(features: Tensor, feature_dim: int | None, by_layer: bool | None) -> bool:
    """Whether the width is the axis after the batch: by its length, or else by the layer that reads the features."""
    shape = tuple(features.shape)
    if feature_dim is None:
        if len(shape) == 3 or by_layer is not None:
            return bool(by_layer)
        if len(shape) > 3 and shape[2:] == (1,) * len(shape[2:]):
            return True
        raise ValueError(
            f"`feature_dim` is needed for features of shape {shape}, whose channels may be the second or the last axis. Give "
            "the number of channels"
        )
    axes = _axes_of_width(features, feature_dim)
    if len(axes) == 1:
        return axes == [1]
    if by_layer is None and len(shape) == 3:
        warnings.warn(
            f"`features` with two axes of {feature_dim} are read as (batch, tokens, {feature_dim}). "
            f"For (batch, {feature_dim}, time) give `pool=lambda features, mask: features.mean(2)`",
            AuxiliaryDataWarning,
            stacklevel=2,
        )
        return False
    return by_layer is not False


def _not_one_row_per_sample(features: Tensor, samples: int) -> str:
    rows = len(features)
    fold = "features.unflatten(0, (-1, {0})).mean(1)` where the {0} rows of a sample follow each other, or `pool=lambda "
    fold += "features, mask: features.unflatten(0, ({0}, -1)).mean(0)` where each view holds all samples"
    if features.ndim == 3 and features.shape[1] == samples:
        fold = "features.mean(0)` where the second axis is the samples"
    elif rows % samples or features.ndim > 2:
        fold = "...` that makes one row per sample"
    return (
        f"`features` must have one row per sample, got {rows} rows of shape {tuple(features.shape[1:])} for {samples} "
        f"auxiliary samples. Give `pool=lambda features, mask: {fold.format(rows // samples)}, or name a layer that reads one "
        "row per sample with `layer=...`"
    )


def _checked_rows(rows: object, feature_dim: int | None, samples: int | None) -> Tensor:
    fits = isinstance(rows, Tensor) and rows.ndim == 2
    if not isinstance(rows, Tensor) or not fits or samples not in (None, len(rows)) or feature_dim not in (None, rows.shape[1]):
        given = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        count, width = ("samples" if samples is None else samples), ("dim" if feature_dim is None else feature_dim)
        raise ValueError(f"`pool` must return one row of features per sample, shape ({count}, {width}), got {given}")
    return rows
