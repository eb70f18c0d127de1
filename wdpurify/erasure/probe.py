"""A linear probe in closed form: how well a label can be read off features, without a library beside torch."""

import torch
from torch import Tensor

from .covariance import moments


def decoded(features: Tensor, groups: Tensor, weights: Tensor) -> float:
    """Balanced accuracy of a linear discriminant on the rows that it was not fitted on, over two halves.

    Args:
        features: float64, shape ``(rows, dim)``.
        groups: number of the label value, int64, shape ``(rows,)``.
        weights: of the rows, shape ``(rows,)``.

    Returns:
        In [0, 1]; about one over the number of values where nothing can be read. Values that do not occur in both halves are
        left out; NaN where fewer than two do.
    """
    half = torch.arange(len(features)) % 2 == 0
    judged = torch.isin(groups, groups[half]) & torch.isin(groups, groups[~half])
    features, groups, weights, half = features[judged], groups[judged], weights[judged], half[judged]
    if len(groups.unique()) < 2:
        return float("nan")
    halves = [_recalls(features, groups, weights, fitted) for fitted in (half, ~half)]
    return float(torch.stack(halves).mean())


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
