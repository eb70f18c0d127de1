"""Loop: orders the work of each pass of the user's training loop."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._auxiliary_step import AuxiliaryStep
from ._diagnostics import Diagnostics
from ._iteration import Count, Iteration, PreparedPull
from ._loop_checks import LoopChecks
from ._metrics import PurifyMetrics
from ._optimizers import OptimizerSteps, ignore_steps_of
from ._torch import is_shard, local_part, shard_like
from .critic import CriticTrainer
from .features import AuxiliaryForward
from .pull import Forward, Pass, StrengthController, inject_gradients, reachable_parameters


class Loop:
    """Begins and ends iterations, trains the critic when it is due, and makes the term of each pass.

    An iteration begins with the first pass after a step of an optimiser that holds parameters of the model. It ends with that
    optimiser's next step. Before the first step, 64 passes count as one iteration, and each later pass as one. At strength 0
    and before the first step, each pass that accumulates no gradient is an iteration.

    Args:
        forward: the extractor without side effects.
        trainer: the critic.
        controller: scales the pull.
        step: the auxiliary step.
        every: iterations from one auxiliary step to the next.

    Attributes:
        steps: the observed optimiser steps.
        before_step: during an auxiliary step, the state before it by part; otherwise None.
    """

    def __init__(
        self,
        forward: AuxiliaryForward,
        trainer: CriticTrainer,
        controller: StrengthController,
        step: AuxiliaryStep,
        *,
        every: int,
    ) -> None:
        self._forward = forward
        self._trainer = trainer
        self._controller = controller
        self._step = step
        self._every = every
        self.steps = OptimizerSteps(forward.model, self.optimizer_stepped)
        ignore_steps_of(trainer.optimizer)
        layer = None if forward.tap is None else forward.tap.layer
        self._diagnostics = Diagnostics(needs_task_gradient=controller.strength.needs_task_gradient, layer=layer)
        self._checks = LoopChecks(self._diagnostics, self.steps, acts_on_task_rows=step.acts_on_task_rows)
        self._count = Count()
        self._iteration: Iteration | None = None
        self._pass: Pass | None = None
        self.before_step: dict[str, Any] | None = None

    @property
    def measures_only(self) -> bool:
        """Whether the strength is 0."""
        return self._controller.strength.value == 0

    def begin_pass(self, *, by_critic_step: bool = False) -> None:
        """Prepare for a backward pass: begin an iteration if there is none, and train the critic if it is due.

        Args:
            by_critic_step: whether ``critic_step()`` calls this; otherwise a term does.
        """
        if self._trainer.changed_by_others():
            self._diagnostics.warn("changed critic")
        self._count.add_pass()
        counts_passes = not self.steps.seen and self._count.counts_passes
        self._checks.check_optimizers(counts_passes=counts_passes)
        if self._iteration is None or counts_passes or self._only_measured(self._iteration):
            self._end_iteration()
            self._count.begin_iteration()
            self._iteration = Iteration(self._forward.model)
            if self._count.number % self._every == 0:
                self._act(self._iteration)
        else:
            self._renew(self._iteration)
        self._iteration.critic_stepped |= by_critic_step

    def optimizer_stepped(self) -> None:
        """End the iteration after a step of the model's optimiser."""
        if not self.steps.seen:
            # Passes that were counted as iterations were passes of the first one.
            self._count.number = min(self._count.number, self._count.first)
        self.steps.seen = True
        self._end_iteration()
        self._checks.optimizer_stepped(self._forward, measures_only=self.measures_only)
        self.release()

    def term_for_loss(self, loss: Tensor | None) -> Tensor | None:
        """Make the term of the pass that the tap has caught; None without a pass.

        Args:
            loss: the loss of the term, which must depend on the features; None if unknown.
        """
        tap = self._forward.tap
        assert tap is not None
        asked = tap.behind(loss)
        if asked is None:
            self._checks.record_no_features(tap)
            return None
        current, forwards = asked
        features = forwards[-1][1]
        self._step.check(features)
        self._forward.remember(features)
        if not current.has_term:
            self.begin_pass()
            current.has_term = True
        tap.place_probe(features.device)
        return self._term(current, forwards)

    def term_for_features(self, features: Tensor) -> Tensor:
        """Make the term for features from the caller."""
        self._step.check(features)
        if not torch.is_grad_enabled():
            return torch.zeros((), dtype=features.dtype, device=features.device)
        self._forward.remember(features)
        if self._iteration is not None and self._iteration.critic_stepped:
            self._renew(self._iteration)
        elif self._forward.model.training:
            self.begin_pass()
        else:  # a validation with a graph, unless the optimiser steps
            self._checks.record_evaluation()
            return torch.zeros((), dtype=features.dtype, device=features.device)
        if self._pass is None or self._pass.closed or self._pass.newest is not features:
            self._pass = Pass()
            with torch._C.DisableTorchFunctionSubclass():  # what is measured of them are plain tensors
                self._pass.add(features)
        return self._term(self._pass, self._pass.forwards)

    def metrics(self) -> PurifyMetrics:
        """Return the figures on the host."""
        self._log()
        return self._diagnostics.metrics(
            lipschitz_bound=self._trainer.lipschitz_bound(),
            clip_share=float(self._trainer.saturation()),
            strength=self._controller.strength.value,
        )

    def release(self, *, for_good: bool = False) -> None:
        """Release everything of this iteration; ``for_good`` also ends warnings about steps without a term."""
        self._checks.removed |= for_good
        self._iteration = self._pass = None
        if self._forward.tap is not None:
            self._forward.tap.release()

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, and inside an iteration its prepared pull, with each gradient under its parameter's name."""
        iteration = self._iteration
        state = self._counts(self._count.number, iteration)
        if iteration is not None and iteration.pull is not None:
            state["pull.value"] = iteration.pull.value.cpu().clone()
            state["pull.gradients"] = sorted(iteration.pull.names)
            for name, (_, gradient) in zip(iteration.pull.names, iteration.pull.parameters, strict=True):
                state[f"pull.gradient.{name}"] = local_part(gradient).cpu().clone()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self._count = Count(state["number"], first=state["number"] + (not state["open"]))
        self.steps.seen = state["seen"]
        self.steps.climbs = state["climbs"]
        self._step.count = state["acted"]
        self._diagnostics.inputs_matched = self._step.count > 0  # the run before has warned otherwise
        self.release()
        if state["open"]:
            self._iteration = Iteration(self._forward.model)
            self._iteration.critic_stepped = state["critic_stepped"]
        if self._iteration is not None and "pull.value" in state:
            saved = {key.removeprefix("pull.gradient."): value for key, value in state.items() if "pull.gradient." in key}
            own = dict(self._forward.model.named_parameters())
            gradients = [(own[name], shard_like(own[name], gradient)) for name, gradient in saved.items()]
            self._iteration.pull = PreparedPull(state["pull.value"].clone(), gradients, list(saved))

    def _counts(self, number: int, iteration: Iteration | None) -> dict[str, Any]:
        stepped = iteration is not None and iteration.critic_stepped
        counts = {"number": number, "open": iteration is not None, "critic_stepped": stepped, "acted": self._step.count}
        return {**counts, "seen": self.steps.seen, "climbs": self.steps.climbs}

    def _act(self, iteration: Iteration) -> None:
        """Do the auxiliary step. A signal handler that saves a state during it gets the state before it."""
        self._log()
        gradients = self._controller.task_gradients
        if gradients.batched and not gradients.latest.is_recorded and self._controller.strength.needs_task_gradient:
            self._diagnostics.warn("batched gradients")
        self.before_step = {
            "critic": {"spread": self._trainer.spread},
            "loop": self._counts(self._count.number - 1, None),
            "controller": self._controller.snapshot(),
            "sampler": self._step.sampler.state_dict(),
            "forward": self._forward.state_dict(),
        }
        try:
            self._log(**self._step.run(iteration))
        finally:
            self.before_step = None
        if self._step.written:
            self._diagnostics.warn("forward writes", names=", ".join(self._step.written))
        self._diagnostics.check()

    def _renew(self, iteration: Iteration) -> None:
        """Begin another pass: prepare the pull again at new weights, and forget gradients that were set to None."""
        if iteration.weights_changed():
            self._step.prepare_again(iteration)
        if self._controller.task_gradients.current.passes and iteration.nothing_accumulated():
            self._controller.task_gradients.begin()

    def _only_measured(self, iteration: Iteration) -> bool:
        """Whether a pass ended without a step, as in a loop that measures a model and does not train it."""
        return self.measures_only and not self.steps.seen and iteration.nothing_accumulated()

    def _end_iteration(self) -> None:
        iteration = self._iteration
        if iteration is None:
            return
        applied = iteration.carried and self._controller.task_gradients.current.passes > 0
        if iteration.pull is not None and not applied and self._controller.prepared_norm is not None:
            self._log(applied_norm=torch.zeros_like(self._controller.prepared_norm))
        self._controller.task_gradients.end()
        self._iteration = None

    def _term(self, current: Pass, forwards: list[Forward]) -> Tensor:
        newest = forwards[-1][1]
        nothing = torch.zeros((), dtype=newest.dtype, device=newest.device)
        self._checks.record_term()
        if not newest.requires_grad:
            self._diagnostics.warn("features without grad")
            return nothing
        if self.measures_only or not self._checks.can_apply(current, newest, self._forward):
            return nothing
        iteration = self._iteration
        assert iteration is not None
        # At least float32: a loss scaler's factor would overflow half precision.
        value = nothing.to(torch.promote_types(newest.dtype, torch.float32))
        gradients: list[Tensor | None] = [None] * len(forwards)
        parameters: Sequence[tuple[Tensor, Tensor]] = []
        if self._step.acts_on_task_rows:
            sized, at_features = self._step.at_task_rows(forwards)
            value, gradients = sized.to(value), list(at_features)
        elif iteration.pull is not None:
            value, parameters = iteration.pull.value.to(value), self._reached(iteration.pull, forwards)
        pulls = self._step.acts_on_task_rows or iteration.pull is not None
        iteration.carried |= pulls
        # A compiled forward reports by its probe; an edge to its features could free a graph that another loss needs.
        reads = current.probe is None or self._step.acts_on_task_rows
        edges = list(zip(forwards, gradients, strict=True)) if reads else []
        term = inject_gradients(value, current, self._controller.task_gradients, edges, parameters, climbs=self.steps.climbs)
        self._log(applied_norm=self._controller.prepared_norm if pulls else None)
        return term

    def _reached(self, pull: PreparedPull, forwards: list[Forward]) -> Sequence[tuple[Tensor, Tensor]]:
        """Return the gradients of parameters that this pass reaches; DistributedDataParallel waits only for these."""
        if self._step.world == 1:
            return pull.parameters
        reachable = reachable_parameters([features for _, features in forwards])
        return [pair for pair in pull.parameters if is_shard(pair[0]) or id(pair[0]) in reachable]

    def _log(self, **figures: Tensor | None) -> None:
        controller, latest = self._controller, self._controller.task_gradients.latest
        task_norm = latest.norm if self._step.world == 1 else controller.joint_norm  # the ranks meet in auxiliary steps only
        named = {"task_norm": task_norm, "prepared_norm": controller.prepared_norm, **figures}
        named["tokens_read"] = latest.tokens if self._step.pool == "mean" else None
        named["term_factor"] = latest.factor if self._forward.tap is None else None
        hidden = ("applied_norm", "prepared_norm") if self._checks.trains_others else ()
        self._diagnostics.log(**{name: figure for name, figure in named.items() if figure is not None and name not in hidden})
