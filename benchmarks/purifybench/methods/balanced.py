"""Methods for those who know the irrelevant label of their own training rows: balanced batches, and what builds on them."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from purifybench.tasks._types import to_float
from torch import Tensor

from wdpurify import balanced_weights
from wdpurify._torch import derive_seed

from ._types import Run
from .gradient_reversal import GradientReversal
from .plain import Plain
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

    #: In ascending order: of equally good sizes the first is chosen, which changes least.
    GRID: ClassVar = {"step_size": (0.001, 0.01, 0.1)}

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

    def state_dict(self) -> dict[str, Any]:
        return {"importance": self.importance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.importance = state["importance"]


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
