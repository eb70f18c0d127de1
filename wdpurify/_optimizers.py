"""Steps of optimisers, as torch announces them: what ends an iteration."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

_all: "weakref.WeakSet[OptimizerSteps]" = weakref.WeakSet()
_critics: "weakref.WeakSet[torch.optim.Optimizer]" = weakref.WeakSet()
_registered = False


def ignore_steps_of(optimizer: torch.optim.Optimizer) -> None:
    """Ignore the steps of an optimiser, a critic's: they end nobody's iteration."""
    _critics.add(optimizer)


class OptimizerSteps:
    """Calls back after each step of an optimiser that holds parameters of a model.

    Every ``torch.optim.Optimizer`` announces its steps: a step that a loss scaler skips is not announced, and one that
    evaluates a closure several times is announced once.

    Args:
        model: the user's model, unwrapped.
        stepped: a bound method to call; it is held weakly.

    Attributes:
        seen: whether a step of the model's optimiser was ever seen.
        climbs: whether that optimiser goes up the gradient (``maximize=True``), as its last step told.
        foreign: whether an optimiser has stepped that holds none of the model's parameters, since this was last reset.
    """

    def __init__(self, model: nn.Module, stepped: Callable[[], None]) -> None:
        self.seen = False
        self.climbs = False
        self.foreign = False
        self._model = model
        self._stepped = weakref.WeakMethod(stepped)
        self._known: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        _listen(self)

    def announced(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser has stepped, the model's or another."""
        if optimizer not in self._known:
            # Looked up at every first step: FSDP and the like exchange the parameters after this object was made.
            own = {id(parameter) for parameter in self._model.parameters()}
            held = (parameter for group in optimizer.param_groups for parameter in group["params"])
            if not any(id(parameter) in own for parameter in held):
                self.foreign = True
                return
            self._known.add(optimizer)
        self.climbs = any(group.get("maximize", False) for group in optimizer.param_groups)
        stepped = self._stepped()
        if stepped is not None:
            stepped()


def _listen(steps: OptimizerSteps) -> None:
    """Tell an object of optimiser steps for as long as it lives.

    One hook serves all and stays: one of its own, taken off when its object is collected, could be taken off while torch goes
    through its hooks, which raises in the user's ``optimizer.step()``.
    """
    global _registered
    if not _registered:
        register_optimizer_step_post_hook(_on_step)
        _registered = True
    _all.add(steps)


def _on_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if optimizer not in _critics:
        for steps in list(_all):
            steps.announced(optimizer)
