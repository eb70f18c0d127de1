"""Purifying, with task batches drawn evenly over class and a prediction of the nuisance, which the auxiliary rows teach."""

from typing import Any

import torch
from purifybench.network import Network
from purifybench.tasks import Task
from purifybench.tasks._types import to_float
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from wdpurify import balanced_weights
from wdpurify._torch import derive_seed

from .erased import PurifiedErased
from .purified import Purified


class PredictedNuisance(Purified):
    """A logistic regression, fitted on the auxiliary rows as they are, predicts the nuisance of the task's own.

    Args:
        network, task, seed, device, steps: as for every method.
        **options: of `Purified`.
    """

    def __init__(self, network: Network, task: Task, *, seed: int, device: torch.device, steps: int, **options: Any) -> None:
        super().__init__(network, task, seed=seed, device=device, steps=steps, **options)
        self.seed = seed
        auxiliary, train = (to_float(part.images).flatten(1).numpy() for part in (task.auxiliary, task.train))
        fitted = LogisticRegression(max_iter=1000).fit(auxiliary, task.auxiliary.groups)
        self.weights = balanced_weights(fitted.predict(train).tolist(), task.train.labels.tolist())

    def rows(self, step: int, usual: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "balanced rows", step))
        return torch.multinomial(self.weights, len(usual), replacement=True, generator=generator)


class PredictedNuisanceErased(PredictedNuisance, PurifiedErased):
    """The same, erased at the end on the training rows as they are."""
