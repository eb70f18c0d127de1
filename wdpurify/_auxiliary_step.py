"""AuxiliaryStep: runs the extractor on auxiliary rows, prepares the pull, and then trains the critic on these rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._iteration import Iteration, PreparedPull
from ._sampler import GroupBatch, Sampler
from ._torch import gather_ranks, is_free_to_read, local_part, plain, rank_and_world, to_device
from .critic import CriticTrainer
from .features import (
    AuxiliaryForward,
    Isolation,
    Pool,
    blank_rows,
    check_features,
    check_pool,
    pool_features,
    unpool,
    usable_inputs,
    usable_rows,
)
from .functional import feature_spread, gap_weights
from .pull import Forward, Objective, StrengthController, TwoSided, check_objective, scaled_value

#: Largest norm of a usable pull: with a larger one, something in the model has overflowed or is about to.
LARGEST_PULL = 1e18
#: Factor of gradients on their way through a float16 extractor; without it they underflow.
HALF_PRECISION_SCALE = 2.0**12


class _Rows(NamedTuple):
    """Auxiliary features with their roles, of this rank or of all ranks."""

    features: Tensor
    groups: Tensor
    population: Tensor


class AuxiliaryStep:
    """Prepares the pull from one auxiliary batch, for an objective that acts there, and then trains the critic on the batch.

    A row is unusable if its inputs are not finite or beyond 1e18, or its features not finite or beyond 1e6. Such a row belongs
    to no group and not to the population. Another row replaces its inputs, so that no normalisation layer sees them. If the
    backward pass still gives a gradient that is not finite, or larger than 1e18, this step has no pull. Every rank sees the
    rows of all ranks, in the order of a single process. So the critics stay equal without a reduction of their gradients. n
    ranks with m rows do the same as one process with n * m rows.

    Args:
        forward: the extractor without side effects.
        sampler: draws auxiliary batches.
        trainer: the critic.
        controller: scales the pull.
        objective: the objective that the pull minimises.
        pool: pooling of tokens to one row.
        every: iterations from one step to the next.

    Attributes:
        count: number of steps so far; seeds the randomness of each step.
        pool: pooling of tokens to one row.
        sampler: draws auxiliary batches.
        written: names of the model's parameters that the first step's forward changed in place.
    """

    def __init__(
        self,
        forward: AuxiliaryForward,
        sampler: Sampler,
        trainer: CriticTrainer,
        controller: StrengthController,
        *,
        objective: Objective,
        pool: Pool,
        every: int,
    ) -> None:
        check_objective(objective)
        check_pool(pool)
        self.count = 0
        self.written: list[str] = []
        self._forward = forward
        self.sampler = sampler
        self._trainer = trainer
        self._controller = controller
        self._objective = objective
        self.pool = pool
        self._pooling: dict[str, Any] = {"pool": pool, "channels_first": forward.channels_first}
        self._every = every
        self._task_spread: Tensor | None = None

    @property
    def acts_on_task_rows(self) -> bool:
        """Whether the objective acts on the task's rows instead of the auxiliary ones."""
        return self._objective.acts_on == "task"

    @property
    def world(self) -> int:
        """Number of ranks that share their rows; all of them must call :meth:`run`, with the same number of rows."""
        return rank_and_world()[1] if getattr(self.sampler, "across_ranks", True) else 1

    def check(self, features: object) -> None:
        """Refuse task features that cannot be pooled to the critic's input; errors as in ``check_features``."""
        dim = self._trainer.feature_dim
        check_features(features, None if callable(self.pool) else dim)
        features = plain(features)
        if isinstance(features, Tensor) and features.ndim > 2:  # features with two axes are measured in the backward pass
            axes_known = self._forward.channels_first is not None or features.shape[1] != features.shape[-1]
            if axes_known or callable(self.pool):
                rows = pool_features(features.detach(), dim, **self._pooling)
                keep = usable_rows(rows)
                self._task_spread = feature_spread(blank_rows(rows, keep), keep)

    def run(self, iteration: Iteration) -> dict[str, Tensor]:
        """Draw the iteration's rows, prepare the pull, and train the critic; returns figures as scalar tensors."""
        device = self._forward.place()[0]
        if self.world > 1:
            identity: dict[str, Any] = getattr(self.sampler, "identity", dict)()
            self._trainer.agree_across_ranks({"every": self._every, **identity}, device=device)
        self._controller.read_task_gradients(device=device, world=self.world)
        iteration.batch = self._forward.draw(self.sampler, step=self.count)
        self.count += 1
        return self._isolated(iteration, learn=True)

    def prepare_again(self, iteration: Iteration) -> None:
        """Prepare the pull again from the same rows at new weights, without training the critic."""
        if self._pulls and iteration.batch is not None:
            self._isolated(iteration, learn=False)

    def at_task_rows(self, forwards: list[Forward]) -> tuple[Tensor, list[Tensor]]:
        """Compute the objective on the task's rows and its gradients at their features, both scaled; 0 at unusable rows."""
        detached = [plain(features).detach() for _, features in forwards]
        pooled = [pool_features(each, self._trainer.feature_dim, **self._pooling) for each in detached]
        rows = torch.cat(pooled)
        keep = usable_rows(rows)
        scored = self._trainer.differentiate(blank_rows(rows, keep), lambda scores: self._objective(scores, None, None))
        parts = blank_rows(scored.gradient, keep).split([len(each) for each in pooled])
        gradients = [unpool(each, part, **self._pooling) for each, part in zip(detached, parts, strict=True)]
        return self._controller.scale_at_task_rows(scored.value, gradients, ranks=self.world)

    @property
    def _pulls(self) -> bool:
        return not self.acts_on_task_rows and self._controller.strength.value > 0

    def _isolated(self, iteration: Iteration, *, learn: bool) -> dict[str, Tensor]:
        used: list[Isolation] = []

        def work(isolation: Isolation) -> dict[str, Tensor]:
            used.append(isolation)
            return self._step(iteration, isolation, learn=learn)

        with torch.inference_mode(False):
            figures = self._forward.run_isolated(work, with_grad=self._pulls, watch=self.count == 1)
        self.written = used[0].written_parameters()
        return figures

    def _step(self, iteration: Iteration, isolation: Isolation, *, learn: bool) -> dict[str, Tensor]:
        assert iteration.batch is not None
        controller, trainer, objective = self._controller, self._trainer, self._objective
        batch = iteration.batch
        inputs, finite = usable_inputs(self._forward.to_model(batch.images), len(batch.groups))
        raw = self._forward(inputs, step=self.count - 1, with_grad=self._pulls)
        mask = self._forward.attention_mask(inputs)
        local, keep = self._own_rows(raw, mask, finite, batch)
        self._forward.check_first_axis(inputs, raw, len(batch.groups), pool=self.pool)
        rows = _of_all_ranks(local) if self.world > 1 else local
        in_play = rows.population | _in_a_group(rows.groups)
        if learn:
            controller.spread.record(feature_spread(rows.features, in_play), in_play)
            trainer.read_in_units_of(controller.spread.typical)
        weights = gap_weights(rows.groups, rows.population, trainer.n_groups)
        # Before the critic trains on these rows: afterwards it may have memorised them.
        is_gap = type(objective) is TwoSided or self.acts_on_task_rows
        scored = trainer.differentiate(rows.features, _gap(weights) if is_gap else _formula(objective, rows))
        if learn:
            controller.separation.record(scored.scores, weights, in_play)
        if self._pulls and raw.requires_grad:
            if learn:
                controller.record_pull(rows.features, scored.gradient, in_play)
            iteration.pull = self._prepared(isolation, raw, scored.gradient, scored.value, mask)
        if learn:
            trainer.fit(rows.features, rows.groups, rows.population, weights=weights, step=self.count - 1)
        estimate = scored.value if is_gap else (scored.scores * weights).sum()
        return self._figures(rows, in_play, scored.gradient, estimate, keep) if learn else {}

    def _own_rows(self, raw: Any, mask: Tensor | None, finite: Tensor | None, batch: GroupBatch) -> tuple[_Rows, Tensor]:
        """Return the pooled features with their roles, and the mask of usable rows."""
        raw = raw.detach() if isinstance(raw, Tensor) else raw
        pooled = pool_features(raw, self._trainer.feature_dim, **self._pooling, mask=mask, samples=len(batch.groups))
        keep = usable_rows(pooled)
        if finite is not None:
            keep = keep & to_device(finite, keep.device)
        groups = to_device(batch.groups, keep.device)
        groups = torch.where(keep if groups.ndim == 1 else keep[:, None], groups, -1)
        return _Rows(blank_rows(pooled, keep), groups, to_device(batch.population, keep.device) & keep), keep

    def _prepared(
        self, isolation: Isolation, raw: Tensor, gradient: Tensor, value: Tensor, mask: Tensor | None
    ) -> PreparedPull:
        """Compute the pull at the extractor's parameters from the objective's gradient at the features of all ranks."""
        world = self.world
        rank = rank_and_world()[0] if world > 1 else 0
        local = gradient[rank::world] * world
        at_raw = unpool(raw, local, **self._pooling, mask=mask)
        # Pooling distributes each row's gradient over its tokens or places, which changes the norm.
        norm = at_raw.norm() if world == 1 else gradient.norm() * _ratio(at_raw.norm(), local.norm())
        factor = self._controller.factor(norm)
        scale = HALF_PRECISION_SCALE if raw.dtype == torch.float16 else 1.0
        gradients = isolation.gradients(raw, (at_raw * factor * scale).to(raw.dtype))
        value, gradients = _only_finite(value, gradients, scale)
        return PreparedPull(
            scaled_value(value, factor), gradients, [isolation.names[id(parameter)] for parameter, _ in gradients]
        )

    def _figures(self, rows: _Rows, in_play: Tensor, gradient: Tensor, estimate: Tensor, keep: Tensor) -> dict[str, Tensor]:
        controller = self._controller
        task_spread = controller.task_spread if self._task_spread is None else self._task_spread
        dropped = (~keep).sum()
        return {
            "estimate": estimate,
            "separation": controller.separation.value,
            "separation_by_chance": controller.separation.chance,
            "critic_gradient_norm": gradient.norm(),
            "spread_kept": controller.spread.kept,
            "spread_beside_task": controller.spread.value / to_device(task_spread, controller.spread.value.device),
            "coherence_excess": controller.coherence.excess,
            "gain": controller.gain.applied,
            "apart": torch.where(controller.gain.at_limit & controller.separation.is_high, controller.separation.value, 0.0),
            "feature_norm": rows.features.norm(dim=1).sum() / in_play.sum(),
            "dropped_rows": dropped,
            "dropped_share": dropped / len(keep),
        }


def _in_a_group(groups: Tensor) -> Tensor:
    """Return the mask of rows that belong to a group of any label, shape ``(batch,)``."""
    return groups >= 0 if groups.ndim == 1 else (groups >= 0).any(1)


def _gap(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """Return :func:`group_gap` as a function of the scores, from weights that are already computed."""
    return lambda scores: (scores * weights).sum()


def _formula(objective: Objective, rows: _Rows) -> Callable[[Tensor], Tensor]:
    return lambda scores: objective(scores, rows.groups, rows.population)


def _of_all_ranks(local: _Rows) -> _Rows:
    dim = local.features.shape[1]
    rows = torch.cat([local.features, local.groups.view(len(local.groups), -1), local.population[:, None]], dim=1)
    rows = gather_ranks(rows).transpose(0, 1).flatten(0, 1)
    groups = rows[:, dim:-1].long()
    return _Rows(rows[:, :dim].contiguous(), groups if local.groups.ndim == 2 else groups[:, 0], rows[:, -1].bool())


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, torch.ones_like(whole))


def _only_finite(
    value: Tensor, gradients: list[tuple[Tensor, Tensor]], scale: float
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Remove the scale from the pull; if any gradient is not finite or is too large, the whole pull becomes 0."""
    if not gradients:
        return value, []
    local = [local_part(gradient) for _, gradient in gradients]
    norms = torch.stack([to_device(norm, value.device) for norm in torch._foreach_norm(local)])
    finite = (norms < LARGEST_PULL).all()
    unscaled = [(parameter, gradient if scale == 1.0 else gradient / scale) for parameter, gradient in gradients]
    if is_free_to_read(finite):
        return (value, unscaled) if finite else (torch.zeros_like(value), [])
    kept = [(parameter, torch.where(to_device(finite, each.device), each, 0.0)) for parameter, each in unscaled]
    return torch.where(finite, value, 0.0), kept
