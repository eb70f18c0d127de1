"""A linear probe in closed form: measures how well features predict a label, with torch alone."""

import torch
from torch import Tensor

from .covariance import moments


def decoded(features: Tensor, groups: Tensor, weights: Tensor) -> tuple[float, float]:
    """Compute the balanced accuracy of a linear discriminant by two-fold cross-validation, and what chance gives.

    Args:
        features: float64, shape ``(rows, dim)``.
        groups: number of the label value, int64, shape ``(rows,)``.
        weights: weights of the rows, shape ``(rows,)``.

    Returns:
        The accuracy, in [0, 1], and one over the number of values, which it is near if the features do not predict the label.
        The probe ignores values that occur in one half only; both are NaN if fewer than two values remain.
    """
    half = torch.arange(len(features)) % 2 == 0
    judged = torch.isin(groups, groups[half]) & torch.isin(groups, groups[~half])
    features, groups, weights, half = features[judged], groups[judged], weights[judged], half[judged]
    values = len(groups.unique())
    if values < 2:
        return float("nan"), float("nan")
    halves = [_recalls(features, groups, weights, fitted) for fitted in (half, ~half)]
    return float(torch.stack(halves).mean()), 1.0 / values


def _recalls(features: Tensor, groups: Tensor, weights: Tensor, fitted: Tensor) -> Tensor:
    values = groups.unique()
    member = (groups[:, None] == values).double() * weights[:, None]
    learned = member * fitted[:, None]
    judged = member * ~fitted[:, None]
    means = learned.T @ features / learned.sum(0)[:, None]
    within = features - means[(groups[:, None] == values).double().argmax(1)]
    covariance = moments(within[fitted], weights[fitted]).covariance
    slopes = torch.linalg.solve(covariance, means.T)
    scores = features @ slopes - (means.T * slopes).sum(0) / 2.0
    hits = (scores.argmax(1)[:, None] == torch.arange(len(values))).double()
    recalls: Tensor = (judged * hits).sum(0) / judged.sum(0)
    return recalls.mean()
