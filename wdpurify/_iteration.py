"""Iteration: what lives from the first pass to the optimiser's step, and is then let go as a whole; and how many there were."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ._sampler import GroupBatch
from ._torch import is_sharded

#: Passes in one iteration after which an optimiser that announces its steps is no longer expected.
LONGEST_ACCUMULATION = 64


class PreparedPull(NamedTuple):
    """A pull at the auxiliary rows, which every pass of the iteration carries.

    Attributes:
        value: of the objective, sized, scalar.
        parameters: the extractor's parameters, each with its gradient, sized.
        names: of these parameters, as in ``named_parameters()``.
    """

    value: Tensor
    parameters: Sequence[tuple[Tensor, Tensor]]
    names: Sequence[str]


class Iteration:
    """One iteration of the user's training.

    Args:
        model: the user's model, unwrapped.

    Attributes:
        announced: whether ``critic_step()`` was called in it.
        batch: its auxiliary rows; None where it does not act.
        pull: None where none is prepared.
        carried: whether a term has carried a pull.
    """

    def __init__(self, model: nn.Module) -> None:
        self.announced = False
        self.batch: GroupBatch | None = None
        self.pull: PreparedPull | None = None
        self.carried = False
        self._model = model
        self._is_sharded = is_sharded(model)
        self._versions = self._current_versions()

    def weights_changed(self) -> bool:
        """Whether the model's weights were written to since this was last asked, as in the climb of SAM.

        Of a sharded model that cannot be told: FSDP exchanges its parameters around each forward.
        """
        before, self._versions = self._versions, self._current_versions()
        return before != self._versions

    def nothing_accumulated(self) -> bool:
        """Whether all gradients were set to None, so that what passes left there does not count."""
        return all(parameter.grad is None for parameter in self._model.parameters())

    def _current_versions(self) -> list[int]:
        if self._is_sharded:
            return []
        return [parameter._version for parameter in self._model.parameters() if parameter.requires_grad]


class Count:
    """How many iterations there were, and passes in the one under way.

    Attributes:
        number: of the iteration under way or of the last one, from 0; -1 before the first.
        first: number of the first iteration since this was made.
        counts_passes: whether so many passes came that each is taken for an iteration, where no step is seen.
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
