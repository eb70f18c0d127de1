"""The linear probe: standardised features, logistic regression."""

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

#: Inverse strength of the L2 penalty. Features are often as many as rows are few: a stronger penalty than scikit-learn's 1.
PENALTY = 0.1
FOLDS = 5


def linear_probe() -> Any:
    """Make an unfitted probe with equal weights of classes."""
    regression = LogisticRegression(C=PENALTY, max_iter=2000, tol=1e-3, class_weight="balanced")
    return make_pipeline(StandardScaler(), regression)


def folds(seed: int) -> Any:
    """Stratified folds, shuffled by ``seed``."""
    return StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32)


def predicted(features: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """Predict the labels of ``others`` by a probe of ``features``."""
    probe = linear_probe().fit(features.numpy(), labels.numpy())
    return torch.from_numpy(np.asarray(probe.predict(others.numpy())))


def predicted_across(features: Tensor, labels: Tensor, weights: Tensor, *, seed: int) -> Tensor:
    """Predict the label of each row by a weighted probe of the other folds."""
    found = torch.empty_like(labels)
    for train, test in folds(seed).split(features, labels):
        probe = linear_probe()
        probe.fit(features[train].numpy(), labels[train].numpy(), logisticregression__sample_weight=weights[train].numpy())
        found[test] = torch.from_numpy(np.asarray(probe.predict(features[test].numpy())))
    return found


def balanced_weights(labels: Tensor) -> Tensor:
    """Return row weights with mean 1 and equal sums per class: the share of weighted hits is the balanced accuracy."""
    counts = torch.bincount(labels)
    return (1.0 / counts.double())[labels] * (len(labels) / int((counts > 0).sum()))


def recall_error(hits: Tensor, labels: Tensor) -> float:
    """Standard error of balanced accuracy over rows, 0 nowhere: two hits and two misses are added to each class.

    Source: Agresti and Coull 1998, for each class's recall.
    """
    variances = []
    for label in labels.unique():
        own = hits[labels == label].double()
        share = (own.sum() + 2) / (len(own) + 4)
        variances.append(float(share * (1 - share) / (len(own) + 4)))
    return float(sum(variances) ** 0.5 / len(variances))
