"""From what an extractor returns to what a critic reads: one row of numbers per sample, in float32."""

import torch
from torch import Tensor

#: Rows with a larger magnitude anywhere are left out like non-finite ones: their square would overflow in the critic.
LARGEST = 1e6


def check_features(features: object, feature_dim: int | None) -> None:
    """Say what is wrong with features that :func:`pool_features` cannot take.

    Args:
        features: what the user handed over.
        feature_dim: expected width, or None to take what comes.

    Raises:
        TypeError: if ``features`` is no floating point tensor.
        ValueError: if its shape is none of the documented ones or its width is not ``feature_dim``.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        came = f"a {features.dtype} tensor" if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"`features` must be a floating point tensor, got {came}; pass what the classifier reads")
    shape = tuple(features.shape)
    widths = shape[1:2] + shape[3:] if len(shape) in (2, 4) else shape[2:3]
    if len(shape) not in (2, 3, 4) or (feature_dim is not None and feature_dim not in widths):
        width = "dim" if feature_dim is None else str(feature_dim)
        raise ValueError(
            f"`features` must have shape (batch, {width}), (batch, tokens, {width}) or (batch, {width}, height, width), "
            f"got {shape}; pass what the classifier reads, or set `feature_dim`"
        )


def pool_features(features: Tensor, feature_dim: int | None) -> Tensor:
    """Reduce features to shape ``(batch, dim)``, float32.

    ``(batch, dim)`` stays; ``(batch, tokens, dim)`` is averaged over tokens; ``(batch, dim, height, width)`` over space, and
    ``(batch, height, width, dim)`` too where only the last axis has ``feature_dim`` entries.

    Args:
        features: floating point, of one of the shapes above.
        feature_dim: expected width, or None to take what comes.

    Raises:
        TypeError, ValueError: as :func:`check_features`.
    """
    check_features(features, feature_dim)
    if features.ndim == 3:
        features = features.mean(1)
    elif features.ndim == 4:
        if feature_dim is None and features.shape[2:] == (1, 1):
            feature_dim = features.shape[1]
        if feature_dim is None:
            raise ValueError(
                f"`feature_dim` is needed for features of shape {tuple(features.shape)}: "
                "channels may be the second axis or the last"
            )
        channels_last = features.shape[1] != feature_dim
        features = features.mean((1, 2) if channels_last else (2, 3))
    return features.float()


def unpooled(features: Tensor, gradient: Tensor) -> Tensor:
    """The gradient at ``features``, in float32 and of their shape, of something whose gradient at the pooled ones is given."""
    leaf = features.detach().float().requires_grad_()
    with torch.enable_grad():
        (result,) = torch.autograd.grad(pool_features(leaf, gradient.shape[1]), leaf, gradient)
    return result


def usable_rows(features: Tensor) -> Tensor:
    """Which rows are finite and not beyond ``LARGEST``, bool, shape ``(batch,)``, without host synchronisation."""
    return (features.abs() <= LARGEST).all(1)


def blank_rows(features: Tensor, keep: Tensor) -> Tensor:
    """Zeros in place of the rows that are not kept; NaN times zero would stay NaN."""
    return torch.where(keep[:, None], features, torch.zeros_like(features))
