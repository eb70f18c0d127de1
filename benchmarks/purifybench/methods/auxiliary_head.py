"""Methods that learn the auxiliary label: beside the task, or before it."""

from typing import Any

import torch
import torch.nn.functional as F
from purifybench.network import FEATURE_DIM
from torch import Tensor, nn

from ._types import Run
from .auxiliary_term import AuxiliaryTerm
from .plain import Plain


class MultiTask(AuxiliaryTerm):
    """The task loss and the cross-entropy of the auxiliary label, by a linear head of its own, on auxiliary rows.

    Args:
        run: as for every method.
        hidden: give the auxiliary head a hidden layer.
        **options: of `AuxiliaryTerm`.

    Source: Li et al. 2021, arXiv:2102.10955, Sec. IV-B.
    """

    def __init__(self, run: Run, *, hidden: bool = False, **options: Any) -> None:
        super().__init__(run, **options)
        layers = (nn.Linear(run.network.feature_dim, FEATURE_DIM), nn.ReLU()) if hidden else ()
        width = FEATURE_DIM if hidden else run.network.feature_dim
        self.auxiliary_head = nn.Sequential(*layers, nn.Linear(width, self.sampler.n_groups)).to(run.device)

    def term(self, features: Tensor, groups: Tensor) -> Tensor:
        return F.cross_entropy(self.auxiliary_head(features), groups)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.auxiliary_head.parameters())

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"head": self.auxiliary_head.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.auxiliary_head.load_state_dict(state["head"])


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
