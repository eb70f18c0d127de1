"""StepClock: tells optimiser steps from calls, so that micro-batches and repeated passes count as one iteration."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

#: Calls in one iteration after which an optimiser that announces its steps is no longer expected.
LONGEST_ACCUMULATION = 64


class StepClock:
    """Counts iterations: what happens between two steps of an optimiser that holds parameters of the model.

    Every ``torch.optim.Optimizer`` announces its steps: a step that a loss scaler skips is not announced, and one that
    evaluates a closure several times is announced once. Until the first announcement a call begins an iteration if
    no gradient is being accumulated or the parameters have changed, so loops with an update of their own are counted too.

    Args:
        model: the user's model, unwrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.iteration = -1
        self.stepped = False
        self._announced = self._counting = False
        self._calls = 0
        self._version = -1
        self._witness: Tensor | None = None
        self._known: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        clock = weakref.ref(self)

        def on_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            if (alive := clock()) is not None:
                alive._on_step(optimizer)

        handle = register_optimizer_step_post_hook(on_step)
        weakref.finalize(self, handle.remove)

    def tick(self) -> bool:
        """Count a call; whether it is the first of an iteration."""
        self._calls += 1
        self._counting = self._counting or self._calls >= LONGEST_ACCUMULATION
        new = self.iteration < 0 or self.stepped or (not self._announced and self._looks_new())
        if new:
            self.iteration += 1
            self.stepped, self._calls = False, 0
        self._version = -1 if (parameter := self._first()) is None else parameter._version
        return new

    def lost(self) -> bool:
        """Whether so many calls came without an announced step that calls are counted instead."""
        return not self._announced and self._counting

    def cleared(self) -> bool:
        """Whether the gradients were set to None since the last backward pass, so that what came before does not count."""
        return self._witness is not None and self._witness.grad is None

    def step(self) -> None:
        """The optimiser has stepped."""
        self.stepped = self._announced = True

    def state_dict(self) -> dict[str, Any]:
        return {"iteration": self.iteration, "stepped": self.stepped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration, self.stepped = int(state["iteration"]), bool(state["stepped"])

    def _looks_new(self) -> bool:
        first = self._first()
        changed = first is not None and first._version != self._version
        return changed or self.lost() or all(parameter.grad is None for parameter in self._model.parameters())

    def _first(self) -> Tensor | None:
        return next((parameter for parameter in self._model.parameters() if parameter.requires_grad), None)

    def _on_step(self, optimizer: torch.optim.Optimizer) -> None:
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
