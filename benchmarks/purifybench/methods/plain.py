"""plain training only: the task loss and nothing else."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ._types import Run


class Plain:
    """Cross-entropy on the task rows; the other methods build on it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.network = run.network
        self.task = run.task

    def rows(self, step: int, usual: Tensor) -> Tensor:
        return usual

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.network(images), labels)

    def parameters(self) -> list[nn.Parameter]:
        return []

    def figures(self) -> dict[str, float]:
        return {}

    def finish(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A plain loss has no state."""
