"""Methods with a term on auxiliary rows in every step: multi-task learning, transfer and gradient reversal; their draws."""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from purifybench.network import FEATURE_DIM
from purifybench.tasks import Task, to_float
from torch import Tensor, nn

from wdpurify import GroupSampler

from .plain import Plain, Run

#: Auxiliary rows per step of the methods that have a term on them, twice as many as purifying has.
BATCH_SIZE = 64


def auxiliary_sampler(task: Task, batch_size: int, seed: int, *, balance: bool = False, **options: Any) -> GroupSampler:
    """Draws of a task's auxiliary rows.

    Args:
        task: whose.
        batch_size: rows per draw.
        seed: of the draws.
        balance: draw evenly over the cells of group and class, for a task whose auxiliary rows have classes.
        **options: of `GroupSampler`, such as other ``groups``.
    """
    rows = task.auxiliary
    usual = {"groups": rows.groups, "balance": rows.classes if balance else None, "transform": to_float}
    # Each process trains a run of its own.
    return GroupSampler(rows.images, batch_size=batch_size, seed=seed, rank=0, world_size=1, **{**usual, **options})


class AuxiliaryTerm(Plain):
    """The task loss and a weighted term on auxiliary rows, in every step.

    Auxiliary rows update BatchNorm statistics, as in a loop that runs them through the network like any others.

    Args:
        run: as for every method.
        weight: factor of the term.
        batch_size: auxiliary rows per step.
        balance: see `auxiliary_sampler`.
    """

    KEPT = ("sampler",)

    def __init__(self, run: Run, *, weight: float = 1.0, batch_size: int = BATCH_SIZE, balance: bool = False) -> None:
        super().__init__(run)
        self.weight = weight
        self.sampler = auxiliary_sampler(run.task, batch_size, run.seed, balance=balance)

    def term(self, features: Tensor, groups: Tensor) -> Tensor:
        """The term of auxiliary features ``(rows, dim)`` and their groups ``(rows,)``, a scalar."""
        raise NotImplementedError

    def auxiliary_features(self, images: Tensor) -> Tensor:
        """Features of auxiliary rows."""
        features: Tensor = self.network.features(images)
        return features

    def auxiliary_loss(self) -> Tensor:
        """The term of the next auxiliary rows."""
        batch = self.sampler.next_batch()
        return self.term(self.auxiliary_features(batch.images.to(self.run.device)), batch.groups.to(self.run.device))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        auxiliary = self.auxiliary_loss()  # first, so that the task's rows leave the fresher BatchNorm statistics
        return super().loss(images, labels) + self.weight * auxiliary


class MultiTask(AuxiliaryTerm):
    """The task loss and the cross-entropy of the auxiliary label, by a linear head of its own, on auxiliary rows.

    Args:
        run: as for every method.
        hidden: give the auxiliary head a hidden layer.
        **options: of `AuxiliaryTerm`.

    Source: Li et al. 2021, arXiv:2102.10955, Sec. IV-B.
    """

    KEPT = (*AuxiliaryTerm.KEPT, "auxiliary_head")

    def __init__(self, run: Run, *, hidden: bool = False, **options: Any) -> None:
        super().__init__(run, **options)
        layers = (nn.Linear(run.network.feature_dim, FEATURE_DIM), nn.ReLU()) if hidden else ()
        width = FEATURE_DIM if hidden else run.network.feature_dim
        self.auxiliary_head = nn.Sequential(*layers, nn.Linear(width, self.sampler.n_groups)).to(run.device)

    def term(self, features: Tensor, groups: Tensor) -> Tensor:
        return F.cross_entropy(self.auxiliary_head(features), groups)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.auxiliary_head.parameters())


class Transfer(MultiTask):
    """The extractor learns the auxiliary label first, for as many steps as the task gets afterwards, alone.

    Source: Li et al. 2021, arXiv:2102.10955, Sec. IV-B.
    """

    def __init__(self, run: Run, *, lr: float = 1e-2) -> None:
        super().__init__(run)
        learned = [*run.network.features.parameters(), *self.auxiliary_head.parameters()]
        optimizer = torch.optim.SGD(learned, lr, momentum=0.9)
        for _ in range(run.steps):
            loss = self.auxiliary_loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return Plain.loss(self, images, labels)

    def parameters(self) -> list[nn.Parameter]:
        return []


class GradientReversal(MultiTask):
    """The task loss and the cross-entropy of the auxiliary label, reversed before the extractor.

    It is DANN for two groups, and the paper's AMTL adversary for more: what the original does with domain labels is done with
    the group labels, on the same rows that purifying sees. The adversary has a hidden layer and the weight rises from 0, both
    as in DANN. With a linear adversary, or from the start at full weight, it collapsed or did worse.

    Args:
        run: as for every method; the schedule of the weight needs its length.
        weight: lambda, the final factor of the reversed gradient; benchmarks tune it on validation data.
        protect_statistics: keep auxiliary rows out of the running BatchNorm statistics, as purifying does.
        **options: `batch_size` and `balance` of `AuxiliaryTerm`.

    Source: Ganin et al. 2016, JMLR 17(1), Sec. 5.2.2; Li et al. 2021, arXiv:2102.10955, Sec. IV-B for AMTL.
    """

    GRID: ClassVar = {"weight": (0.03, 0.1, 0.3, 1.0)}
    KEPT = (*MultiTask.KEPT, "done")

    def __init__(self, run: Run, *, weight: float = 0.3, protect_statistics: bool = False, **options: Any) -> None:
        super().__init__(run, hidden=True, **options)
        self.reversal = weight
        self.protect_statistics = protect_statistics
        self.done = 0

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = super().loss(images, labels)
        self.done += 1
        return loss

    def auxiliary_features(self, images: Tensor) -> Tensor:
        if not self.protect_statistics:
            return super().auxiliary_features(images)
        buffers = {name: buffer.clone() for name, buffer in self.network.features.named_buffers()}
        features: Tensor = torch.func.functional_call(self.network.features, buffers, (images,))
        return features

    def term(self, features: Tensor, groups: Tensor) -> Tensor:
        weight = self.reversal * (2.0 / (1.0 + math.exp(-10.0 * self.done / self.run.steps)) - 1.0)
        turned = features.view_as(features)
        turned.register_hook(lambda gradient: -weight * gradient)
        return super().term(turned, groups)
