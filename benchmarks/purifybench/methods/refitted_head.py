"""A new head on finished features: part of LEACE, and by itself a measure of how much of an error is the old head's alone."""

from typing import Any

import torch
from purifybench.network import Network, features_of
from purifybench.tasks import Split
from sklearn.linear_model import LogisticRegression

from ._types import Run
from .plain import Plain
from .purified import Purified

#: Inverse strength of the new head's ridge, on standardised features.
HEAD_C = 0.01


def refit_head(network: Network, rows: Split, device: torch.device) -> None:
    """Put a logistic regression in place of the network's head.

    Args:
        network: its features stay as they are.
        rows: what to fit on.
        device: where the network is.
    """
    features = features_of(network, rows.images, device).double().cpu()
    centre, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    fitted = LogisticRegression(C=HEAD_C, max_iter=1000).fit(((features - centre) / scale).numpy(), rows.labels.numpy())
    weight = torch.from_numpy(fitted.coef_) / scale
    bias = torch.from_numpy(fitted.intercept_) - weight @ centre
    if len(weight) == 1:  # two classes: one row of scores, of the second class
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    with torch.no_grad():
        network.head.weight[fitted.classes_] = weight.to(network.head.weight)
        network.head.bias[fitted.classes_] = bias.to(network.head.bias)


class UnbiasedHead(Plain):
    """plain training, then a head fitted anew on the oracle's rows, which have no bias and no user has.

    Args:
        run: as for every method.

    Raises:
        ValueError: for a task without an oracle's rows.
    """

    def __init__(self, run: Run, **options: Any) -> None:
        super().__init__(run, **options)
        if run.task.oracle is None:
            raise ValueError(f"the task {run.task.name} has no rows without the bias to fit a head on")
        self.unbiased = run.task.oracle

    def finish(self) -> dict[str, float]:
        measured = super().finish()
        refit_head(self.network, self.unbiased, self.run.device)
        return measured


class PurifiedUnbiasedHead(UnbiasedHead, Purified):
    """Purifying, then such a head."""
