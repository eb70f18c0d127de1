"""Iteration: the data from the first pass to the optimiser's step; and the count of iterations."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ._sampler import GroupBatch
from ._torch import is_sharded

#: Passes in one iteration after which an optimiser that announces its steps is no longer expected.
LONGEST_ACCUMULATION = 64


class PreparedPull(NamedTuple):
    """A scaled pull at the auxiliary rows; every pass of the iteration carries it.

    Attributes:
        value: scaled value of the objective, scalar.
        parameters: the extractor's parameters, each with its scaled gradient.
        names: names of these parameters, as in ``named_parameters()``.
    """

    value: Tensor
    parameters: Sequence[tuple[Tensor, Tensor]]
    names: Sequence[str]


class Iteration:
    """One iteration of the user's training; the whole object is dropped at the optimiser's step.

    Args:
        model: the user's model, unwrapped.

    Attributes:
        critic_stepped: whether ``critic_step()`` was called.
        batch: the auxiliary rows; None in an iteration without an auxiliary step.
        pull: the prepared pull, or None.
        carried: whether a term has carried a pull.
    """

    def __init__(self, model: nn.Module) -> None:
        self.critic_stepped = False
        self.batch: GroupBatch | None = None
        self.pull: PreparedPull | None = None
        self.carried = False
        self._model = model
        self._is_sharded = is_sharded(model)
        self._versions = self._current_versions()

    def weights_changed(self) -> bool:
        """Whether the model's weights have changed since the last call, as in the ascent step of SAM.

        False for a sharded model, because FSDP exchanges its parameters around each forward.
        """
        before, self._versions = self._versions, self._current_versions()
        return before != self._versions

    def nothing_accumulated(self) -> bool:
        """Whether all gradients are None, so earlier passes no longer count."""
        return all(parameter.grad is None for parameter in self._model.parameters())

    def _current_versions(self) -> list[int]:
        if self._is_sharded:
            return []
        return [parameter._version for parameter in self._model.parameters() if parameter.requires_grad]


class Count:
    """Counts iterations, and the passes of the current one.

    Attributes:
        number: number of the current or last iteration, from 0; -1 before the first.
        first: number of the first iteration in this process.
        counts_passes: whether there were so many passes that, without an observed step, each counts as an iteration.
    """

    def __init__(self, number: int = -1, *, first: int = 0) -> None:
        self.number = number
        self.first = first
        self.counts_passes = False
        self._passes = 0

    def add_pass(self) -> None:
        """Count a pass."""
        self._passes += 1
        self.counts_passes |= self._passes >= LONGEST_ACCUMULATION

    def begin_iteration(self) -> None:
        """Count an iteration."""
        self.number += 1
        self._passes = 0
