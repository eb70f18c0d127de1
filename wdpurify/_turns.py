"""Turns: what happens from one optimiser step to the next; trains the critic and hands the term to the user's loss."""

from typing import Any

import torch
from torch import Tensor

from ._auxiliary import AuxiliaryForward
from ._clock import StepClock
from ._devices import moved
from ._features import check_features
from ._injection import BackwardRecord, inject, watch_task_gradient
from ._ledger import GradientLedger, observations
from ._monitor import Monitor
from ._options import Objective
from ._ranks import gathered, rank_and_world
from ._sampler import GroupBatch, Sampler
from ._step import Term, auxiliary_step
from ._strength import Strength
from ._tap import FeatureTap
from ._trainer import CriticTrainer
from ._warnings import (
    CriticNotSteppedWarning,
    FeaturesWithoutGradWarning,
    ForeignOptimizerWarning,
    OptimizerNotSeenWarning,
)
from .functional import Toward, one_sided_loss


class Turns:
    """The game between critic and extractor, in the order in which the user's loop calls for it.

    Args:
        forward: the extractor without side effects.
        sampler: draws auxiliary batches.
        trainer: the critic.
        strength: sizes the term.
        monitor: gets the figures, says the warnings.
        objective, toward: which term.
        every: act in every how-manieth iteration.
        across_ranks: one critic for all ranks.
    """

    def __init__(
        self,
        forward: AuxiliaryForward,
        sampler: Sampler,
        trainer: CriticTrainer,
        strength: Strength,
        monitor: Monitor,
        *,
        objective: Objective,
        toward: Toward,
        every: int,
        across_ranks: bool,
    ) -> None:
        self._forward, self._sampler, self._trainer = forward, sampler, trainer
        self._strength, self._monitor = strength, monitor
        self._objective, self._toward, self._every, self._across_ranks = objective, toward, every, across_ranks
        self._clock, self._ledger = StepClock(forward.model), GradientLedger()
        self.acted = 0
        self._batch: GroupBatch | None = None
        self._pending: Term | None = None
        self._separation = torch.zeros(())

    def begin_pass(self) -> None:
        """A backward pass is to come: count it, train the critic if it is time, prepare the term."""
        if self._trainer.changed_by_others():
            self._monitor.warn(
                ForeignOptimizerWarning,
                "the critic's weights were changed from outside: take its parameters out of your optimiser, it has its own",
            )
        self._pending = None  # frees the graph of a term that was never asked for
        first = self._clock.tick()
        if first:
            self._batch = None
            if self._clock.iteration > 0:
                self._ledger.close()
        elif self._clock.cleared():
            self._ledger.restart()
        if self._clock.lost():
            self._monitor.warn(
                OptimizerNotSeenWarning,
                "no step of an optimiser that holds the model's parameters was seen, so calls are counted as iterations: if "
                "yours is no torch.optim.Optimizer, call `purify.optimizer_stepped()` after each of its steps",
            )
        if self._clock.iteration % self._every == 0:
            self._act(first)

    def optimizer_stepped(self) -> None:
        """The optimiser has stepped without saying so by itself."""
        self._clock.step()

    def term(self, features: Tensor, *, tap: FeatureTap | None) -> Tensor:
        """The term for the loss, see ``PurifyRegularizer.loss``; ``tap`` is what caught the features, if one did."""
        check_features(features, self._trainer.feature_dim)
        zero = torch.zeros((), dtype=features.dtype, device=features.device)
        if not torch.is_grad_enabled():
            return zero
        term, self._pending = self._pending, None
        self._forward.follow(features)
        if self._clock.iteration < 0:
            self._monitor.warn(CriticNotSteppedWarning, "`loss()` without `critic_step()`: call it once per iteration")
        if not features.requires_grad:
            self._monitor.warn(
                FeaturesWithoutGradWarning,
                "`features` carry no gradient (frozen backbone, no_grad or detach), so there is nothing to purify",
            )
            return zero
        if self._strength.value == 0:
            return zero
        if self._objective == "one-sided":
            value, gradient = self._trainer.differentiate(
                features,
                lambda scores, _: one_sided_loss(scores, toward=self._toward),
            )
            # Passes and ranks see other task rows each: their gradients add up like those of independent draws.
            passes = self._ledger.passes_before * self._world
            term = Term(value, features, gradient, gradient.norm() / passes**0.5)
        return self._handed_over(features, term, tap=tap)

    def drop(self) -> None:
        """Let go of what is held for the next term."""
        self._pending = self._batch = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "clock": self._clock.state_dict(),
            "ledger": self._ledger.state_dict(),
            "acted": self.acted,
            "separation": self._separation.detach().cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._clock.load_state_dict(state["clock"])
        self._ledger.load_state_dict(state["ledger"])
        self.acted = int(state["acted"])
        self._separation = state["separation"].clone()
        self.drop()

    @property
    def _world(self) -> int:
        return rank_and_world()[1] if self._across_ranks else 1

    def _act(self, first: bool) -> None:
        with_grad = self._objective == "two-sided" and self._strength.value > 0
        if first:
            if self._world > 1:
                self._trainer.agree_across_ranks()
            self._hear_of_the_task()
            self._batch = self._forward.draw(self._sampler, step=self.acted)
            self.acted += 1
        if self._batch is None or not (first or with_grad):
            return
        step = auxiliary_step(
            self._batch,
            self._forward,
            self._trainer,
            number=self.acted - 1,
            learn=first,
            with_grad=with_grad,
            across_ranks=self._across_ranks,
        )
        self._pending = step.term
        if first:
            self._separation = step.figures["separation"]
            self._monitor.note(**step.figures)
            self._monitor.look(acted=self.acted)

    def _hear_of_the_task(self) -> None:
        rows = self._ledger.take(self._every)
        joint = gathered(moved(rows, self._forward.place()[0])) if self._world > 1 else rows[None]
        for task_norm, weight in observations(joint):
            self._strength.observe(task_norm, weight)

    def _handed_over(self, features: Tensor, term: Term | None, *, tap: FeatureTap | None) -> Tensor:
        record = BackwardRecord(self._observe)
        # At least float32: a loss scaler's factor would overflow half precision.
        wide = torch.promote_types(features.dtype, torch.float32)
        own, value = None, torch.zeros((), dtype=wide, device=features.device)
        pairs: list[tuple[Tensor, Tensor | None]] = [(features, None)]
        if term is not None:
            separation = moved(self._separation, term.gradient.device)
            factor = self._strength.factor(term.norm, separation)
            gradient = term.gradient * factor
            self._monitor.note(applied_norm=term.norm * factor)
            value = torch.where(factor > 0, self._strength.value * term.value, 0.0).to(value)  # no pull, no share in the loss
            if term.features is features:
                own, pairs = gradient, [(features, gradient)]
            else:
                pairs.append((term.features, gradient))
        if tap is not None:
            tap.report_to(record, features.device)
        else:
            watch_task_gradient(features, record, own)
        return inject(value, record, *pairs)

    def _observe(self, norm: Tensor, scale: Tensor) -> None:
        self._monitor.note(task_norm=self._ledger.add(norm, scale))
