"""One regularizer per label, where the auxiliary rows have several: what one regularizer of all labels is compared with."""

from typing import Any

import torch
import torch.nn.functional as F
from purifybench.network import Network
from purifybench.tasks import Task
from torch import Tensor

from .plain import Plain
from .purified import Purified


class PurifiedPerLabel(Plain):
    """The task loss and one purify term per label column.

    Args:
        network, task, seed, device, steps: as for every method.
        **options: of each `Purified`.
    """

    def __init__(self, network: Network, task: Task, *, seed: int, device: torch.device, steps: int, **options: Any) -> None:
        super().__init__(network, task, seed=seed, device=device, steps=steps)
        common: dict[str, Any] = {"seed": seed, "device": device, "steps": steps, **options}
        names = list(task.auxiliary.columns or ())
        self.parts = [Purified(network, task, labels=[name], **common) for name in names] or [Purified(network, task, **common)]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        for part in self.parts:
            part.purify.critic_step()
        features = self.network.features(images)
        loss = F.cross_entropy(self.network.head(features), labels)
        for part in self.parts:
            loss = loss + part.purify.loss(features)
        return loss

    def figures(self) -> dict[str, float]:
        return self.parts[0].figures()

    def state_dict(self) -> dict[str, Any]:
        return {str(number): part.state_dict() for number, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, part in enumerate(self.parts):
            part.load_state_dict(state[str(number)])
