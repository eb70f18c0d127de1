"""Gradient reversal on the auxiliary label: DANN for two groups, the paper's AMTL adversary for more.

A head of its own classifies the auxiliary label from the features of auxiliary rows, at every step; its gradient reaches
the extractor with the sign turned. What the original does with domain labels is here done
with the group labels, on the same rows that Purified Learning sees.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from purifybench.network import FEATURE_DIM, Network
from purifybench.tasks import Task
from purifybench.tasks._types import to_float
from torch import Tensor, nn

from wdpurify import GroupSampler

from .plain import Plain
from .purified import BATCH_SIZE


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return -ctx.weight * gradients[0], None


class GradientReversal(Plain):
    """The task loss and the cross-entropy of the auxiliary label, reversed before the extractor.

    The adversary has a hidden layer and the weight rises from 0, both as in DANN: with a linear one, or from the start at full
    weight, it collapsed or did worse.

    Args:
        network, task, seed, device: as for every method.
        steps: length of the run, which the schedule of the weight needs.
        batch_size: auxiliary rows per step.
        weight: lambda, the final factor of the reversed gradient; to be tuned on validation data.

    Source: Ganin et al. 2016, JMLR 17(1), Sec. 5.2.2; Li et al. 2021, arXiv:2102.10955, Sec. IV-B for AMTL.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        *,
        seed: int,
        device: torch.device,
        steps: int,
        weight: float = 0.3,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        super().__init__(network, task, seed=seed, device=device, steps=steps)
        self.weight, self.steps, self.done = weight, steps, 0
        self.sampler = GroupSampler(
            task.auxiliary.images,
            task.auxiliary.groups,
            batch_size=batch_size,
            seed=seed,
            transform=to_float,
            rank=0,  # each process trains a run of its own
            world_size=1,
        )
        hidden = nn.Linear(FEATURE_DIM, FEATURE_DIM), nn.ReLU()
        self.adversary = nn.Sequential(*hidden, nn.Linear(FEATURE_DIM, self.sampler.n_groups)).to(device)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        batch = self.sampler.next_batch()
        weight = self.weight * (2.0 / (1.0 + math.exp(-10.0 * self.done / self.steps)) - 1.0)
        self.done += 1
        features = self.network.features(batch.images.to(images.device))
        adversary_scores = self.adversary(_Reverse.apply(features, weight))
        return super().loss(images, labels) + F.cross_entropy(adversary_scores, batch.groups.to(images.device))

    def parameters(self) -> list[nn.Parameter]:
        return list(self.adversary.parameters())

    def state_dict(self) -> dict[str, Any]:
        return {"adversary": self.adversary.state_dict(), "sampler": self.sampler.state_dict(), "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adversary.load_state_dict(state["adversary"])
        self.sampler.load_state_dict(state["sampler"])
        self.done = state["done"]
