"""Weighted moments of features in double precision, well conditioned even with fewer rows than dimensions."""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Weighted moments of rows.

    Attributes:
        mean: mean of the features, shape ``(dim,)``.
        centred: features minus their mean, shape ``(rows, dim)``.
        weights: weights of the rows, shape ``(rows,)``, with sum 1.
        covariance: covariance, shrunk towards a multiple of the identity, positive definite, ``(dim, dim)``.
    """

    mean: Tensor
    centred: Tensor
    weights: Tensor
    covariance: Tensor


def moments(features: Tensor, weights: Tensor, *, shrinkage: float | None = None) -> Moments:
    """Compute mean and covariance of features ``(rows, dim)`` with weights ``(rows,)``.

    Args:
        features: float64.
        weights: at least 0, with a sum above 0.
        shrinkage: share of the identity in the covariance, in [0, 1]; None uses the oracle approximating shrinkage, which
            decreases with the number of rows.

    Source: Chen, Wiesel, Eldar and Hero 2010, "Shrinkage Algorithms for MMSE Covariance Estimation", Eq. 23, with Kish's
    effective sample size as the number of rows.
    """
    weights = weights / weights.sum()
    mean = weights @ features
    centred = features - mean
    covariance = (centred * weights[:, None]).T @ centred
    dim = covariance.shape[0]
    trace = covariance.trace()
    if shrinkage is None:
        count = 1.0 / weights.square().sum()
        square = covariance.square().sum()
        uneven = (count + 1.0 - 2.0 / dim) * (square - trace.square() / dim)
        shrinkage = float(((1.0 - 2.0 / dim) * square + trace.square()) / uneven) if uneven > 0 else 1.0
        shrinkage = min(1.0, max(0.0, shrinkage))
    size = trace / dim if trace > 0 else 1.0  # equal rows have no scale
    shrunk = (1.0 - shrinkage) * covariance + shrinkage * size * torch.eye(dim, dtype=covariance.dtype)
    return Moments(mean, centred, weights, shrunk)
