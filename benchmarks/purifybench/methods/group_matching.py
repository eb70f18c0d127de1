"""Matching of groups: the task loss and a distance between the features of every two groups of auxiliary rows."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from purifybench.network import Network
from purifybench.tasks import Task
from purifybench.tasks._types import to_float
from torch import Tensor

from wdpurify import GroupSampler

from .auxiliary_head import BATCH_SIZE
from .plain import Plain

#: Of features ``(rows, dim)`` of two groups, a scalar.
Distance = Callable[[Tensor, Tensor], Tensor]


class GroupMatching(Plain):
    """The task loss and the mean distance over all pairs of groups, on auxiliary rows at every step.

    Auxiliary rows update BatchNorm statistics, as in a loop that runs them through the network like any others.

    Args:
        network, task, seed, device, steps: as for every method.
        distance: between two groups.
        weight: factor of the distance.
        batch_size: auxiliary rows per step.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        *,
        seed: int,
        device: torch.device,
        steps: int,
        distance: Distance,
        weight: float = 1.0,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        super().__init__(network, task, seed=seed, device=device, steps=steps)
        self.distance = distance
        self.weight = weight
        self.sampler = GroupSampler(
            task.auxiliary.images,
            task.auxiliary.groups,
            batch_size=batch_size,
            seed=seed,
            transform=to_float,
            rank=0,  # each process trains a run of its own
            world_size=1,
        )

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        batch = self.sampler.next_batch()
        features = self.network.features(batch.images.to(images.device))  # first, as in multi-task learning
        groups = batch.groups.to(images.device)
        return super().loss(images, labels) + self.weight * mean_distance(features, groups, self.distance)

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state)


def mean_distance(features: Tensor, groups: Tensor, distance: Distance) -> Tensor:
    """Mean over the pairs of groups that have two rows at least; 0 where there is no such pair."""
    members = [features[groups == group] for group in groups.unique()]
    pairs = list(itertools.combinations([rows for rows in members if len(rows) > 1], 2))
    if not pairs:
        return features.sum() * 0.0
    return torch.stack([distance(first, second) for first, second in pairs]).mean()
