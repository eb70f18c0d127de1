"""Plain training, the base of every method; what a method is made for, and which of its options are to be tuned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from purifybench.network import Network
from purifybench.tasks import Task
from sklearn.model_selection import ParameterGrid
from torch import Tensor, nn

#: Values of some options of a method, as pairs sorted by name.
Options = tuple[tuple[str, Any], ...]
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


class Plain:
    """Cross-entropy on the task rows, and nothing else; the other methods build on it.

    Attributes:
        GRID: candidates by name of an option, for options that are to be tuned. They ascend where they are weights: of equally
            good ones the first is chosen, which changes least.
        KEPT: names of the attributes that a checkpoint holds; each is a plain value or has a `state_dict`.
    """

    GRID: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    KEPT: ClassVar[tuple[str, ...]] = ()

    def __init__(self, run: Run) -> None:
        self.run = run
        self.network = run.network
        self.task = run.task

    def rows(self, step: int, usual: Tensor) -> Tensor:
        """The task rows of a step, int64, shape ``(batch,)``, in place of the ``usual`` ones, which make up whole epochs."""
        return usual

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss of float images ``(batch, 3, height, width)`` with labels ``(batch,)``, a scalar with its graph."""
        return F.cross_entropy(self.network(images), labels)

    def parameters(self) -> list[nn.Parameter]:
        """Parameters beside the network's that the task's optimiser is to train."""
        return []

    def figures(self) -> dict[str, float]:
        """What to plot over the steps; empty where there is nothing."""
        return {}

    def finish(self) -> dict[str, float]:
        """What is left to do between the last step and the first look at the network, mostly nothing; further measures."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        parts = {name: getattr(self, name) for name in self.KEPT}
        return {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, value in state.items():
            if hasattr(part := getattr(self, name), "load_state_dict"):
                part.load_state_dict(value)
            else:
                setattr(self, name, value)


#: Names of methods and what makes them, called as ``make(Run(network, task, ...))``.
Methods = Mapping[str, Callable[..., Plain]]


def candidates(make: Callable[..., Plain]) -> list[Options]:
    """All points of a method's `GRID`, in its order; none for a method that has none.

    Args:
        make: a method's class, or a partial of it; an option that the partial gives is not tuned.
    """
    given = make.keywords if isinstance(make, partial) else {}
    declaring = make.func if isinstance(make, partial) else make  # partials of partials are flat
    grid = getattr(declaring, "GRID", {})
    tuned = {name: values for name, values in grid.items() if name not in given}
    return [tuple(sorted(point.items())) for point in ParameterGrid(tuned)] if tuned else []
