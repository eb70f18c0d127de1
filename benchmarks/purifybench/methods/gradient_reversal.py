"""Gradient reversal on the auxiliary label: DANN for two groups, the paper's AMTL adversary for more.

A head of its own classifies the auxiliary label from the features of auxiliary rows, at every step; its gradient reaches
the extractor with the sign turned. What the original does with domain labels is here done
with the group labels, on the same rows that Purified Learning sees.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from ._types import Run
from .auxiliary_head import MultiTask


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return -ctx.weight * gradients[0], None


class GradientReversal(MultiTask):
    """The task loss and the cross-entropy of the auxiliary label, reversed before the extractor.

    The adversary has a hidden layer and the weight rises from 0, both as in DANN: with a linear one, or from the start at full
    weight, it collapsed or did worse.

    Args:
        run: as for every method; the schedule of the weight needs its length.
        weight: lambda, the final factor of the reversed gradient; benchmarks tune it on validation data.
        protect_statistics: keep auxiliary rows out of the running BatchNorm statistics, as purifying does.
        **options: `batch_size` and `balance` of `AuxiliaryTerm`.

    Source: Ganin et al. 2016, JMLR 17(1), Sec. 5.2.2; Li et al. 2021, arXiv:2102.10955, Sec. IV-B for AMTL.
    """

    #: In ascending order: of equally good weights the first is chosen, which changes least.
    GRID: ClassVar = {"weight": (0.03, 0.1, 0.3, 1.0)}

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
        return super().term(_Reverse.apply(features, weight), groups)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.done = state["done"]
