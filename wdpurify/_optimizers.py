"""Observes optimiser steps with torch's global hook; a step of the model's optimiser ends an iteration."""

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
    """Ignore the steps of a critic's optimiser."""
    _critics.add(optimizer)


class OptimizerSteps:
    """Calls a method after each step of an optimiser that holds parameters of a model.

    A step that a loss scaler skips gives no call, and a step with several evaluations of its closure gives one.

    Args:
        model: the user's model, unwrapped.
        stepped: a bound method to call; the reference is weak.

    Attributes:
        seen: whether the model's optimiser ever stepped.
        climbs: whether that optimiser maximises (``maximize=True``), at its last step.
        foreign: whether an optimiser without the model's parameters stepped since the last reset of this attribute.
    """

    def __init__(self, model: nn.Module, stepped: Callable[[], None]) -> None:
        self.seen = False
        self.climbs = False
        self.foreign = False
        self._model = model
        self._stepped = weakref.WeakMethod(stepped)
        self._known: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        _listen(self)

    def observe(self, optimizer: torch.optim.Optimizer) -> None:
        """Receive a step of any optimiser."""
        if optimizer not in self._known:
            # Read at the first step of each optimiser, because FSDP exchanges parameters after this object is made.
            parameters = {id(parameter) for parameter in self._model.parameters()}
            held = (parameter for group in optimizer.param_groups for parameter in group["params"])
            if not any(id(parameter) in parameters for parameter in held):
                self.foreign = True
                return
            self._known.add(optimizer)
        self.climbs = any(group.get("maximize", False) for group in optimizer.param_groups)
        stepped = self._stepped()
        if stepped is not None:
            stepped()


def _listen(steps: OptimizerSteps) -> None:
    """Report optimiser steps to an object as long as it lives.

    One permanent hook serves all objects. A hook per object would be removed by the garbage collector, perhaps while torch
    iterates over its hooks, and this raises in the user's ``optimizer.step()``.
    """
    global _registered
    if not _registered:
        register_optimizer_step_post_hook(_on_step)
        _registered = True
    _all.add(steps)


def _on_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if optimizer not in _critics:
        for steps in list(_all):
            steps.observe(optimizer)
