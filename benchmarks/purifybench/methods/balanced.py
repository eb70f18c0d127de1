"""Task batches drawn evenly over class and nuisance, where the nuisance of the training rows is known or predicted."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from purifybench.tasks import to_float
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from wdpurify import balanced_weights
from wdpurify._torch import derive_seed

from .auxiliary import GradientReversal
from .plain import Plain, Run
from .purified import ERASED_AT_ONCE, Purified, PurifiedErased


class DrawnByWeight(Plain):
    """Task rows drawn with replacement, by the weights that a method gives them in an attribute of that name."""

    weights: Tensor

    def rows(self, step: int, usual: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self.run.seed, "balanced rows", step))
        return torch.multinomial(self.weights, len(usual), replacement=True, generator=generator)


class BalancedBatches(DrawnByWeight):
    """Task rows drawn evenly over the cells of irrelevant label and class, with replacement ("simple data balancing").

    Source: Idrissi et al. 2022, arXiv:2110.14503.
    """

    def __init__(self, run: Run, **options: Any) -> None:
        super().__init__(run, **options)
        assert run.task.auxiliary.classes is not None
        self.weights = balanced_weights(run.task.auxiliary.groups, run.task.auxiliary.classes)


class GroupRobust(BalancedBatches):
    """Group DRO: the worst cells weigh more and more, on batches that are drawn evenly over the cells.

    Args:
        run: as for every method.
        step_size: of the weights, eta_q; benchmarks tune it on validation data.

    Source: Sagawa et al. 2020, arXiv:1911.08731, Alg. 1.
    """

    GRID: ClassVar = {"step_size": (0.001, 0.01, 0.1)}
    KEPT = ("importance",)

    def __init__(self, run: Run, *, step_size: float = 0.01) -> None:
        super().__init__(run)
        self.step_size = step_size
        pairs = torch.stack([torch.tensor(run.task.auxiliary.groups), run.task.train.labels])
        _, self.cells = pairs.unique(dim=1, return_inverse=True)
        self.importance = torch.ones(int(self.cells.max()) + 1) / (int(self.cells.max()) + 1)
        self.drawn = torch.empty(0, dtype=torch.int64)

    def rows(self, step: int, usual: Tensor) -> Tensor:
        self.drawn = super().rows(step, usual)
        return self.drawn

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        each = F.cross_entropy(self.network(images), labels, reduction="none")
        cells = self.cells[self.drawn].to(each.device)
        importance = self.importance.to(each.device)
        counts = cells.bincount(minlength=len(importance))
        means = torch.zeros_like(importance).index_add(0, cells, each) / counts.clamp(min=1)
        raised = importance * torch.exp(self.step_size * means.detach())
        self.importance = (raised / raised.sum()).cpu()
        return (self.importance.to(each.device) * means).sum()


class BalancedReversal(BalancedBatches, GradientReversal):
    """Gradient reversal on balanced auxiliary rows, the task's batches balanced too."""


class BalancedPurified(BalancedBatches, Purified):
    """Purifying on balanced auxiliary rows, the task's batches balanced too."""


class BalancedPurifiedErased(PurifiedErased, BalancedPurified):
    """Purifying and erasing where the nuisance of the task's own rows is known: all batches are drawn evenly over the cells."""

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        train = self.task.train
        everything = self.rows(-1, torch.arange(len(train.labels)))
        for rows in everything.split(ERASED_AT_ONCE):
            yield to_float(train.images[rows]), train.labels[rows]


class PredictedNuisance(DrawnByWeight, Purified):
    """Purifying, with task batches drawn evenly over class and a prediction of the nuisance.

    A logistic regression, fitted on the auxiliary rows as they are, predicts the nuisance of the task's own.

    Args:
        run: as for every method.
        **options: of `Purified`.
    """

    def __init__(self, run: Run, **options: Any) -> None:
        super().__init__(run, **options)
        auxiliary, train = (to_float(part.images).flatten(1).numpy() for part in (run.task.auxiliary, run.task.train))
        fitted = LogisticRegression(max_iter=1000).fit(auxiliary, run.task.auxiliary.groups)
        self.weights = balanced_weights(fitted.predict(train).tolist(), run.task.train.labels.tolist())


class PredictedNuisanceErased(PredictedNuisance, PurifiedErased):
    """The same, erased at the end on the training rows as they are."""
