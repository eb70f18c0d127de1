"""Iteration: what lives from the first pass to the optimiser's step, and is then let go as a whole."""

from typing import NamedTuple

from torch import Tensor, nn

from ._sampler import GroupBatch
from ._torch import is_sharded


class PreparedPull(NamedTuple):
    """A pull at the auxiliary rows, which every pass of the iteration carries.

    Attributes:
        value: of the objective, sized, scalar.
        parameters: the extractor's parameters, each with its gradient, sized.
    """

    value: Tensor
    parameters: list[tuple[Tensor, Tensor]]


class Iteration:
    """One iteration of the user's training.

    Args:
        number: of this iteration, from 0.
        model: the user's model, unwrapped.

    Attributes:
        announced: whether ``critic_step()`` was called in it.
        batch: its auxiliary rows; None where it does not act.
        pull: None where none is prepared.
        carried: whether a term has carried a pull.
    """

    def __init__(self, number: int, model: nn.Module) -> None:
        self.number = number
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
