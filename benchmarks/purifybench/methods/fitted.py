"""The base of predictors that are fitted on rows as they are, in place of a network that is trained step by step."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from purifybench.network import Network
from purifybench.tasks import Task
from torch import Tensor, nn

from .plain import Plain

#: From rows to class numbers, shape ``(rows,)``.
Predictor = Callable[[np.ndarray], np.ndarray]


class Predicted(nn.Module):
    """A predictor's classes as features, one number per class."""

    def __init__(self, predictor: Predictor, n_classes: int) -> None:
        super().__init__()
        self.predictor = predictor
        self.n_classes = n_classes

    def forward(self, rows: Tensor) -> Tensor:
        classes = torch.from_numpy(np.asarray(self.predictor(rows.cpu().numpy()))).long()
        return F.one_hot(classes, self.n_classes).to(rows)


class Fitted(Plain):
    """A predictor in the network's place; its steps do nothing, and `fit` is called after them.

    Args:
        network, task, seed, device, steps: as for every method.
    """

    def __init__(self, network: Network, task: Task, *, seed: int, device: torch.device, steps: int) -> None:
        super().__init__(network, task, seed=seed, device=device, steps=steps)
        self.task = task
        self.seed = seed
        self.device = device

    def fit(self) -> Predictor:
        """The predictor of the task."""
        raise NotImplementedError

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return 0.0 * self.network.head.bias.sum()

    def finish(self) -> dict[str, float]:
        n_classes = self.task.n_classes
        self.network.features = Predicted(self.fit(), n_classes)
        self.network.head = nn.Linear(n_classes, n_classes, bias=False, device=self.device)
        with torch.no_grad():
            self.network.head.weight.copy_(torch.eye(n_classes))
        return {}
