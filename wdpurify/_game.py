"""Game: the order of play between critic and extractor, as the user's loop calls for it."""

import weakref
from typing import Any

import torch
from torch import Tensor

from ._acting import acting_step, at_task_rows
from ._iterations import Iterations, ignore_steps_of
from ._monitor import Monitor, PurifyMetrics
from ._reach import Reach
from ._sampler import GroupBatch, Sampler
from ._torch import rank_and_world
from .critic import CriticTrainer
from .exceptions import FeaturesWithoutGradWarning
from .features import AuxiliaryForward, CapturedPass, Pool, check_features, check_pool
from .pull import Objective, PassRecord, Pull, check_objective


class Game:
    """What happens in each pass: count it, act if it is time, hand over the term.

    Args:
        forward: the extractor without side effects.
        sampler: draws auxiliary batches.
        trainer: the critic.
        pull: what moves the extractor.
        objective: what is minimised.
        every: act once every this many iterations.
        pool: how tokens become one row.
    """

    def __init__(
        self,
        forward: AuxiliaryForward,
        sampler: Sampler,
        trainer: CriticTrainer,
        pull: Pull,
        *,
        objective: Objective,
        every: int,
        pool: Pool,
    ) -> None:
        check_objective(objective)
        check_pool(pool)
        self._forward = forward
        self._sampler = sampler
        self._trainer = trainer
        self._pull = pull
        self._objective = objective
        self._every = every
        self._pool = pool
        self.monitor = Monitor(needs_task_gradient=pull.strength.needs_task_gradient)
        self.iterations = Iterations(forward.model, self._end_iteration, every=every)
        self.iterations.watches = pull.strength.value == 0
        self._reach = Reach(self.monitor, self.iterations, through_model=objective.acts_on == "auxiliary")
        ignore_steps_of(trainer.optimizer)
        self.acted = 0
        self._batch: GroupBatch | None = None
        self._prepared_at: list[int] | None = None
        self._current: CapturedPass | None = None
        self._last_record: weakref.ref[PassRecord] | None = None
        self._tap = forward.tap

    def begin_pass(self) -> None:
        """A backward pass is to come: count it, train the critic if it is time, prepare the pull."""
        if self._trainer.changed_by_others():
            self._reach.warn_of_changed_critic()
        if self._last_record is not None:
            self._reach.check_optimizers()
        self._current = None
        last = self._last_record() if self._last_record is not None else None
        first = self.iterations.begin_pass(pending=last is not None and last.pending)
        if first:
            self._batch = None
            self._prepared_at = None
            if self.iterations.number > 0:
                self._pull.end_iteration()
        elif self.iterations.cleared():
            self._pull.restart_iteration()
        if not self.iterations.acts():
            return
        if first:
            self._draw()
            self._act(learn=True)
        elif self._batch is not None and self._weights_changed():
            self._act(learn=False)

    def optimizer_stepped(self) -> None:
        """The optimiser has stepped without saying so by itself."""
        self.iterations.optimizer_stepped()

    def term_of(self, loss: Tensor | None) -> Tensor | None:
        """The term of the pass that the tap has caught, which is announced with its first term; None where there is none.

        Args:
            loss: the loss that the term is for, which must come from the features; None where it is not known.
        """
        tap = self._tap
        assert tap is not None
        current = tap.current()
        if current is not None:
            self._check(current.features[-1])
        if current is None or not (part := current if loss is None else current.part_of(loss)):
            self._reach.missed(tap)
            return None
        if not current.record.handed:
            self.begin_pass()
            current.record.handed = True
        tap.place_probe(current.features[-1].device)
        return self._term(part)

    def term_at(self, features: Tensor) -> Tensor:
        """The term for features in the user's hands."""
        self._check(features)
        return self._term(self._pass_of(features))

    def metrics(self) -> PurifyMetrics:
        """The figures, on the host."""
        self._record()
        return self.monitor.metrics(
            lipschitz_bound=self._trainer.lipschitz_bound(),
            clip_share=float(self._trainer.saturation()),
            strength=self._pull.strength.value,
        )

    def release(self) -> None:
        """Let go of all that is held for this iteration."""
        self._batch = None
        self._current = None
        self._prepared_at = None
        self._pull.drop()
        if self._tap is not None:
            self._tap.release()

    def _end_iteration(self) -> None:
        self._pull.settle()
        self._reach.stepped(self._tap)
        self.release()

    def state_dict(self) -> dict[str, Any]:
        """Where the game stands; inside an iteration with the pull that was prepared for it."""
        prepared = self._pull.prepared(self._forward.model.named_parameters()) if self.iterations.under_way() else None
        states = {"iterations": self.iterations.state_dict(), "pull": self._pull.state_dict()}
        return {**states, "acted": self.acted, "prepared": prepared}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where a game stood."""
        self.iterations.load_state_dict(state["iterations"])
        self._pull.load_state_dict(state["pull"])
        self.acted = int(state["acted"])
        self.monitor.alike = self.acted > 0  # or it would have been said before
        self.release()
        if state["prepared"] is not None:
            self._pull.take_prepared(state["prepared"], self._forward.model.named_parameters())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_current": None, "_last_record": None}  # a copy takes no part in a pass under way

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._prepared_at is not None:
            self._prepared_at = self.iterations.versions()  # a copy's own
        ignore_steps_of(self._trainer.optimizer)

    def _term(self, current: CapturedPass) -> Tensor:
        newest = current.features[-1]
        zero = torch.zeros((), dtype=newest.dtype, device=newest.device)
        if not torch.is_grad_enabled():
            return zero
        self._reach.caught()
        self._forward.record(newest)
        if self._forward.model.training and not self.iterations.is_begun():
            self._pull.miss()
            self._reach.warn_of_no_critic_step()
        if not newest.requires_grad:
            self.monitor.warn(
                FeaturesWithoutGradWarning,
                "`features` carry no gradient (frozen backbone, no_grad or detach), so there is nothing to purify",
            )
            return zero
        if self._pull.strength.value == 0 or not self._reach.allows(current):
            return zero
        return self._handed(current)

    @property
    def _world(self) -> int:
        return rank_and_world()[1] if getattr(self._sampler, "across_ranks", True) else 1

    def _pass_of(self, features: Any) -> CapturedPass:
        """The pass that these features belong to: the one under way if it is theirs, or a new one."""
        if self._current is None or self._current.record.closed or self._current.features[0] is not features:
            record = PassRecord()
            record.read_at(features)
            self._current = CapturedPass([features], [0], record)
        return self._current

    def _check(self, features: Any) -> None:
        check_features(features, None if callable(self._pool) else self._trainer.feature_dim)

    def _draw(self) -> None:
        world = self._world
        if world > 1:
            identity: dict[str, Any] = getattr(self._sampler, "identity", dict)()
            self._trainer.agree_across_ranks({"every": self._every, **identity}, device=self._forward.place()[0])
        self._pull.read_task_gradient(self._every, device=self._forward.place()[0], world=world)
        self._batch = self._forward.draw(self._sampler, step=self.acted)
        self.acted += 1

    def _act(self, *, learn: bool) -> None:
        assert self._batch is not None
        figures = acting_step(
            self._batch,
            self._forward,
            self._trainer,
            self._pull,
            self._objective,
            pool=self._pool,
            number=self.acted - 1,
            learn=learn,
            world=self._world,
        )
        self._prepared_at = self.iterations.versions()
        if learn:
            self._record(**figures)
            self.monitor.check()

    def _weights_changed(self) -> bool:
        """Whether the pull that was prepared in this iteration is that of other weights, as after the climb of SAM."""
        acts_here = self._objective.acts_on == "auxiliary" and self._pull.strength.value > 0
        return acts_here and self._prepared_at != self.iterations.versions()

    def _handed(self, current: CapturedPass) -> Tensor:
        own = None
        if self._objective.acts_on == "task":
            value, gradients = at_task_rows(current.features, self._trainer, self._objective, pool=self._pool)
            own = self._pull.at_task_rows(value, gradients, ranks=self._world)
        term = self._pull.hand_over(
            current.features,
            current.numbers,
            current.record,
            probe=current.probe,
            own=own,
            ranks=self._world,
            climbed=self.iterations.climbs,
        )
        self._last_record = weakref.ref(current.record)
        self._record()
        return term

    def _record(self, **figures: Tensor) -> None:
        known = {"task_norm": self._pull.task_norm}
        if self._tap is None:
            known["term_factor"] = self._pull.term_factor
        if not self._reach.lost:
            known |= {"applied_norm": self._pull.applied_norm, "prepared_norm": self._pull.prepared_norm}
        self.monitor.record(**figures, **{name: figure for name, figure in known.items() if figure is not None})
