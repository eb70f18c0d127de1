"""Iterations: tells optimiser steps from passes, so that micro-batches and repeated passes count as one iteration."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ._checks import check_positive_integer

#: Passes in one iteration after which an optimiser that announces its steps is no longer expected.
LONGEST_ACCUMULATION = 64

_all: "weakref.WeakSet[Iterations]" = weakref.WeakSet()
_critics: "weakref.WeakSet[torch.optim.Optimizer]" = weakref.WeakSet()
_registered = False


def ignore_steps_of(optimizer: torch.optim.Optimizer) -> None:
    """The steps of this optimiser, a critic's, say nothing of anybody's training."""
    _critics.add(optimizer)


def _register(iterations: "Iterations") -> None:
    """Tell an object of optimiser steps for as long as it lives.

    One hook serves all and stays: one of its own, taken off when its object is collected, could be taken off while torch goes
    through its hooks, which raises in the user's ``optimizer.step()``.
    """
    global _registered
    if not _registered:
        register_optimizer_step_post_hook(_on_step)
        _registered = True
    _all.add(iterations)


def _on_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if optimizer not in _critics:
        for iterations in list(_all):
            iterations.optimizer_announced(optimizer)


class Iterations:
    """Counts iterations: what happens between two steps of an optimiser that holds parameters of the model.

    Every ``torch.optim.Optimizer`` announces its steps: a step that a loss scaler skips is not announced, and one that
    evaluates a closure several times is announced once. Until the first announcement a pass begins an iteration if no gradient
    is being accumulated or the parameters' version counters have moved, so updates by hand are counted too; the first
    announcement corrects what was guessed until then.

    Args:
        model: the user's model, unwrapped.
        ended: a bound method to call at each step; it is held weakly.
        every: act once every this many iterations, at least 1.

    Attributes:
        number: of the iteration that is under way, from 0; -1 before the first pass.
        stepped: whether its optimiser has stepped.
        watches: whether passes may come without a backward, as where nothing is pulled; then each of them begins an iteration.
        climbs: whether the model's optimiser goes up the gradient (``maximize=True``), as its last step told.
        foreign_passes: passes after which an optimiser stepped that holds none of the model's parameters, and no other.
    """

    def __init__(self, model: nn.Module, ended: Callable[[], None], *, every: int) -> None:
        self._every = check_positive_integer("every", every)
        self._model = model
        self._ended = weakref.WeakMethod(ended)
        self.number = -1
        self.stepped = False
        self.watches = False
        self.climbs = False
        self.foreign_passes = 0
        self._foreign_step = False
        self._announced = False
        self._counts_passes = False
        self._passes = 0
        self._began = 0
        self._resumed = False
        self._restarted = False
        self._versions: list[int] = []
        self._witness: Tensor | None = None
        self._known: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        _register(self)

    @property
    def announced(self) -> bool:
        """Whether a step of the model's optimiser was ever seen."""
        return self._announced

    def begin_pass(self, *, pending: bool = False) -> bool:
        """Count a pass; whether it begins an iteration, which it does not while the loss of another pass is ``pending``."""
        self._passes += 1
        self.foreign_passes += self._foreign_step and self.number >= 0 and not self._announced
        self._foreign_step = False
        self._counts_passes = self._counts_passes or self._passes >= LONGEST_ACCUMULATION
        looks_new = not (self._announced or pending or self._resumed) and self._looks_new()
        first = self.number < 0 or self.stepped or looks_new
        if first:
            self.number += 1
            self.stepped = False
            self._passes = 0
        self._restarted = self._resumed and self._nothing_accumulated()
        self._resumed = False
        if not self._announced:
            self._versions = self.versions()
        return first

    def is_begun(self) -> bool:
        """Whether a pass has begun the iteration under way; where nothing is pulled it is enough that one ever was begun."""
        return self.number >= 0 and (self.watches or not self.stepped)

    def acts(self) -> bool:
        """Whether the iteration that is under way is one to act in."""
        return self.number % self._every == 0

    def counts_passes(self) -> bool:
        """Whether so many passes came without an announced step that passes are counted instead."""
        return not self._announced and self._counts_passes

    def cleared(self) -> bool:
        """Whether the gradients were set to None since the last backward pass, so that what came before does not count."""
        return self._restarted or (self._witness is not None and self._witness.grad is None)

    def under_way(self) -> bool:
        """Whether an iteration has begun that is not over: its optimiser is still to step."""
        if self.number < 0 or self.stepped:
            return False
        if self._announced or self._resumed:
            return True
        first = self.number == self._began and not self.watches
        return self._versions == self.versions() if first else not self._looks_new()

    def optimizer_stepped(self) -> None:
        """The model's optimiser has stepped."""
        if not self._announced:
            self.number = min(self.number, self._began)
        self.stepped = True
        self._announced = True
        ended = self._ended()
        if ended is not None:
            ended()

    def optimizer_announced(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser has stepped, this model's or another."""
        if optimizer not in self._known:
            # Looked up at every first step: FSDP and the like exchange the parameters after this object was made.
            mine = {id(parameter) for parameter in self._model.parameters()}
            held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            ours = [parameter for parameter in held if id(parameter) in mine]
            if not ours:
                self._foreign_step = True
                return
            self._known.add(optimizer)
            self._witness = next((parameter for parameter in ours if parameter.grad is not None), self._witness)
        self.climbs = any(group.get("maximize", False) for group in optimizer.param_groups)
        self.optimizer_stepped()

    def versions(self) -> list[int]:
        """Version counters of the trainable parameters: other counters, other weights."""
        return [parameter._version for parameter in self._model.parameters() if parameter.requires_grad]

    def state_dict(self) -> dict[str, Any]:
        """How many iterations there were, whether the last one is over, and what is known of the optimiser."""
        over = self.number >= 0 and not self.under_way()
        return {"number": self.number, "stepped": over, "announced": self._announced, "climbs": self.climbs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved count."""
        number = int(state["number"])
        stepped = bool(state["stepped"])
        announced = bool(state["announced"])
        self.climbs = bool(state["climbs"])
        self.number = number
        self.stepped = stepped
        self._began = number + stepped
        # Where weights are updated by hand, nobody says that an update ends the iteration that was saved.
        self._resumed = number >= 0 and not stepped and (announced or number == 0)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Iterations":
        ended = self._ended()
        assert ended is not None
        copied = Iterations(copy.deepcopy(self._model, memo), copy.deepcopy(ended, memo), every=self._every)
        rest = {name: value for name, value in vars(self).items() if name not in ("_model", "_ended", "_known", "_versions")}
        vars(copied).update(copy.deepcopy(rest, memo))
        copied._versions = copied.versions() if self._versions == self.versions() else []
        return copied

    def __reduce__(self) -> Any:
        raise TypeError("a regularizer is tied to its model and cannot be pickled: save its `state_dict()` in a file")

    def _looks_new(self) -> bool:
        return self.counts_passes() or self._versions != self.versions() or self._nothing_accumulated()

    def _nothing_accumulated(self) -> bool:
        return all(parameter.grad is None for parameter in self._model.parameters())
