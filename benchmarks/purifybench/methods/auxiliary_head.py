"""Transfer learning (TL) and multi-task learning (MTL): the auxiliary label is learned, before the task or beside it."""

from typing import Any

import torch
import torch.nn.functional as F
from purifybench.network import FEATURE_DIM, Network
from purifybench.tasks import Task
from purifybench.tasks._types import to_float
from torch import Tensor, nn

from wdpurify import GroupSampler

from .plain import Plain

#: Auxiliary rows per step of the methods that learn the auxiliary label, twice as many as purifying has.
BATCH_SIZE = 64


class MultiTask(Plain):
    """The task loss and the cross-entropy of the auxiliary label, by a linear head of its own, on auxiliary rows.

    Args:
        network, task, seed, device, steps: as for every method.
        weight: factor of the auxiliary loss.
        batch_size: auxiliary rows per step.
        hidden: give the auxiliary head a hidden layer.
        balance: draw evenly over the cells of group and class, for a task whose auxiliary rows have classes.

    Source: Li et al. 2021, arXiv:2102.10955, Sec. IV-B.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        *,
        seed: int,
        device: torch.device,
        steps: int,
        weight: float = 1.0,
        batch_size: int = BATCH_SIZE,
        hidden: bool = False,
        balance: bool = False,
    ) -> None:
        super().__init__(network, task, seed=seed, device=device, steps=steps)
        self.weight = weight
        self.sampler = GroupSampler(
            task.auxiliary.images,
            task.auxiliary.groups,
            balance=task.auxiliary.classes if balance else None,
            batch_size=batch_size,
            seed=seed,
            transform=to_float,
            rank=0,  # each process trains a run of its own
            world_size=1,
        )
        layers = (nn.Linear(network.feature_dim, FEATURE_DIM), nn.ReLU()) if hidden else ()
        width = FEATURE_DIM if hidden else network.feature_dim
        self.auxiliary_head = nn.Sequential(*layers, nn.Linear(width, self.sampler.n_groups)).to(device)

    def auxiliary_loss(self, device: torch.device) -> Tensor:
        """Cross-entropy of the auxiliary label on the next auxiliary rows."""
        batch = self.sampler.next_batch()
        features = self.seen_by_head(self.auxiliary_features(batch.images.to(device)))
        return F.cross_entropy(self.auxiliary_head(features), batch.groups.to(device))

    def auxiliary_features(self, images: Tensor) -> Tensor:
        """Features of auxiliary rows."""
        features: Tensor = self.network.features(images)
        return features

    def seen_by_head(self, features: Tensor) -> Tensor:
        """What the auxiliary head gets of the features."""
        return features

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        auxiliary = self.auxiliary_loss(images.device)  # first, so that the task's rows leave the fresher BatchNorm statistics
        return super().loss(images, labels) + self.weight * auxiliary

    def parameters(self) -> list[nn.Parameter]:
        return list(self.auxiliary_head.parameters())

    def state_dict(self) -> dict[str, Any]:
        return {"head": self.auxiliary_head.state_dict(), "sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.auxiliary_head.load_state_dict(state["head"])
        self.sampler.load_state_dict(state["sampler"])


class Transfer(MultiTask):
    """The extractor learns the auxiliary label first, for as many steps as the task gets afterwards, alone.

    Source: Li et al. 2021, arXiv:2102.10955, Sec. IV-B.
    """

    def __init__(self, network: Network, task: Task, *, seed: int, device: torch.device, steps: int, lr: float = 1e-2) -> None:
        super().__init__(network, task, seed=seed, device=device, steps=steps)
        learned = [*network.features.parameters(), *self.auxiliary_head.parameters()]
        optimizer = torch.optim.SGD(learned, lr, momentum=0.9)
        for _ in range(steps):
            loss = self.auxiliary_loss(device)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return Plain.loss(self, images, labels)

    def parameters(self) -> list[nn.Parameter]:
        return []
