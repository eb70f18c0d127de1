"""One regularizer per label, where the auxiliary rows have several: what one regularizer of all labels is compared with."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ._types import Run
from .plain import Plain
from .purified import Purified


class PurifiedPerLabel(Plain):
    """The task loss and one purify term per label column.

    Args:
        run: as for every method.
        **options: of each `Purified`.
    """

    def __init__(self, run: Run, **options: Any) -> None:
        super().__init__(run)
        names = list(run.task.auxiliary.columns or ())
        self.parts = [Purified(run, labels=[name], **options) for name in names] or [Purified(run, **options)]

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
