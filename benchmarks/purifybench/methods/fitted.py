"""Predictors that are fitted on rows as they are, in place of a network that is trained step by step."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from wdpurify import balanced_weights

from .concept_erasure import fitted_eraser
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
    """A predictor in the network's place; its steps do nothing, and `fit` is called after them."""

    def fit(self) -> Predictor:
        """The predictor of the task."""
        raise NotImplementedError

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return 0.0 * self.network.head.bias.sum()

    def finish(self) -> dict[str, float]:
        n_classes = self.task.n_classes
        self.network.features = Predicted(self.fit(), n_classes)
        self.network.head = nn.Linear(n_classes, n_classes, bias=False, device=self.run.device)
        with torch.no_grad():
            self.network.head.weight.copy_(torch.eye(n_classes))
        return {}


class ErasedRegression(Fitted):
    """LEACE fitted on the auxiliary rows themselves, then a logistic regression on the erased training rows.

    Source: Belrose et al. 2023, arXiv:2306.03819.
    """

    def fit(self) -> Predictor:
        eraser = fitted_eraser(self.task.auxiliary.images, self.task.auxiliary.groups)

        def erased(rows: np.ndarray) -> np.ndarray:
            return eraser(torch.from_numpy(rows)).numpy()

        train = self.task.train
        fitted = LogisticRegression(max_iter=1000).fit(erased(train.images.numpy()), train.labels.numpy())
        return lambda rows: fitted.predict(erased(rows))


class WeightedRegression(Fitted):
    """What the owner of a table tries first, where the nuisance of the training rows is known.

    A logistic regression on the rows themselves, each weighed by how rare its pair of nuisance and class is.
    """

    def fit(self) -> Predictor:
        auxiliary = self.task.auxiliary
        assert auxiliary.classes is not None
        weights = balanced_weights(auxiliary.groups, auxiliary.classes) * len(auxiliary.groups)
        train = self.task.train
        fitted = LogisticRegression(max_iter=1000)
        fitted.fit(train.images.numpy(), train.labels.numpy(), sample_weight=weights.numpy())
        return fitted.predict
