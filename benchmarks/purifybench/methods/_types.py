"""What a method is given, and what the run loop asks of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from purifybench.network import Network
from purifybench.tasks import Task
from torch import Tensor, nn

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Run:
    """What a method is made for.

    Attributes:
        network: what is trained.
        task: its data.
        seed: of all that the method draws.
        device: where the network is.
        steps: length of the run.
    """

    network: Network
    task: Task
    seed: int = 0
    device: torch.device = CPU
    steps: int = 1


class Method(Protocol):
    """Turns a batch of task rows into a loss; owns whatever else it needs."""

    def rows(self, step: int, usual: Tensor) -> Tensor:
        """The task rows of a step, int64, shape ``(batch,)``, in place of the ``usual`` ones, which make up whole epochs."""
        ...

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss of float images ``(batch, 3, height, width)`` with labels ``(batch,)``, a scalar with its graph."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """Parameters beside the network's that the task's optimiser is to train."""
        ...

    def figures(self) -> dict[str, float]:
        """What to plot over the steps; empty where there is nothing."""
        ...

    def finish(self) -> dict[str, float]:
        """What is left to do between the last step and the first look at the network, mostly nothing; further measures."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
