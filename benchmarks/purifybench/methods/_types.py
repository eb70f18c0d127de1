"""What a method is given, what the run loop asks of it, and which of its options are to be tuned."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from purifybench.network import Network
from purifybench.tasks import Task
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


def candidates(make: Callable[..., Method]) -> list[Options]:
    """All points of a method's grid, in its order; none for a method that has none.

    Its class has it as an attribute `GRID`, candidates by the name of the option.

    Args:
        make: a method's class, or a partial of it; an option that the partial gives is not tuned.
    """
    given = make.keywords if isinstance(make, partial) else {}
    declaring = make.func if isinstance(make, partial) else make  # partials of partials are flat
    grid = getattr(declaring, "GRID", {})
    tuned = sorted(name for name in grid if name not in given)
    if not tuned:
        return []
    return [tuple(zip(tuned, point, strict=True)) for point in itertools.product(*(grid[name] for name in tuned))]
