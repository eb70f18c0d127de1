"""Features that carry a label, and what a linear probe could read of it: for the tests of erasing."""

import torch
from torch import nn


def labelled_rows(count=400, dim=12, values=3, seed=0):
    """Correlated features of which some are moved by the label."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(values, (count,), generator=generator)
    features = torch.randn((count, dim), generator=generator, dtype=torch.float64)
    features = features @ torch.randn((dim, dim), generator=generator, dtype=torch.float64) + 3.0
    features[:, :values] += 2.0 * nn.functional.one_hot(groups, values)
    return features, groups


def shared_covariance(features, groups, weights=None):
    """Covariance of features and label values, which a linear probe needs."""
    weights = torch.ones(len(groups), dtype=torch.float64) if weights is None else weights.double()
    weights = weights / weights.sum()
    labels = nn.functional.one_hot(groups).double()
    return (features - weights @ features).T @ (weights[:, None] * (labels - weights @ labels))
