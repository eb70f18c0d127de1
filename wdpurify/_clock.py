"""StepClock: tells optimiser steps from calls, so that micro-batches and repeated passes count as one iteration."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

#: Calls in one iteration after which an optimiser that announces its steps is no longer expected.
LONGEST_ACCUMULATION = 64


_clocks: "weakref.WeakSet[StepClock]" = weakref.WeakSet()
_listening = False


def _listen_for(clock: "StepClock") -> None:
    """Tell a clock of optimiser steps for as long as it lives.

    One hook serves all clocks and stays: one of its own, taken off when its clock is collected, could be taken off while torch
    goes through its hooks, which raises in the user's ``optimizer.step()``.
    """
    global _listening
    if not _listening:
        register_optimizer_step_post_hook(_on_step)
        _listening = True
    _clocks.add(clock)


def _on_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for clock in list(_clocks):
        clock.hear(optimizer)


class StepClock:
    """Counts iterations: what happens between two steps of an optimiser that holds parameters of the model.

    Every ``torch.optim.Optimizer`` announces its steps: a step that a loss scaler skips is not announced, and one that
    evaluates a closure several times is announced once. Until the first announcement a call begins an iteration if
    no gradient is being accumulated or the parameters have changed, so loops with an update of their own are counted too;
    the first announcement corrects what was guessed until then.

    Args:
        model: the user's model, unwrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.iteration = -1
        self.stepped = False
        self._announced = self._counting = False
        self._calls = 0
        self._began = 0
        self._seen: Tensor | None = None
        self._witness: Tensor | None = None
        self._known: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        _listen_for(self)

    def tick(self) -> bool:
        """Count a call; whether it is the first of an iteration."""
        self._calls += 1
        self._counting = self._counting or self._calls >= LONGEST_ACCUMULATION
        new = self.iteration < 0 or self.stepped or (not self._announced and self._looks_new())
        if new:
            self.iteration += 1
            self.stepped, self._calls = False, 0
        if not self._announced:
            watched = self._watched()
            self._seen = None if watched is None else watched.detach().clone()
        return new

    def lost(self) -> bool:
        """Whether so many calls came without an announced step that calls are counted instead."""
        return not self._announced and self._counting

    def cleared(self) -> bool:
        """Whether the gradients were set to None since the last backward pass, so that what came before does not count."""
        return self._witness is not None and self._witness.grad is None

    def step(self) -> None:
        """The optimiser has stepped."""
        if not self._announced:
            self.iteration, self._seen = min(self.iteration, self._began), None
        self.stepped = self._announced = True

    def state_dict(self) -> dict[str, Any]:
        return {"iteration": self.iteration, "stepped": self.stepped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration, self.stepped = int(state["iteration"]), bool(state["stepped"])
        self._began = self.iteration + self.stepped

    def _looks_new(self) -> bool:
        watched = self._watched()
        # By value: fastai and the like write past the version counters. The host waits, but for the first few calls alone.
        changed = watched is not None and self._seen is not None and not torch.equal(watched, self._seen)
        return changed or self.lost() or all(parameter.grad is None for parameter in self._model.parameters())

    def _watched(self) -> Tensor | None:
        """The last trainable parameter, in most models the classifier's bias, where it can be compared."""
        trainable = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        plain = bool(trainable) and type(trainable[-1]) is nn.Parameter and trainable[-1].device.type != "meta"
        return trainable[-1] if plain else None

    def hear(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser has stepped, this model's or another."""
        if optimizer not in self._known:
            # Looked up at every first step: FSDP and the like exchange the parameters after this object was made.
            mine = {id(parameter) for parameter in self._model.parameters()}
            held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            ours = [parameter for parameter in held if id(parameter) in mine]
            if not ours:
                return
            self._known.add(optimizer)
            self._witness = next((parameter for parameter in ours if parameter.grad is not None), self._witness)
        self.step()
