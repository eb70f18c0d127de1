"""One acting step: auxiliary rows through the extractor, the critic trained on them, and the pull prepared from its scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._sampler import GroupBatch
from ._torch import gathered, is_free_to_read, moved, own_part, rank_and_world
from .critic import CriticTrainer
from .features import (
    LARGEST_INPUT,
    AuxiliaryForward,
    Pool,
    blank_rows,
    pool_features,
    replace_rows,
    unpooled,
    usable_rows,
)
from .functional import feature_spread, gap_weights
from .pull import Objective, Pull, TwoSided

#: Under float16 autocast gradients are multiplied by this on their way through the extractor, lest they underflow.
HALF_PRECISION_SCALE = 2.0**12


class _Rows(NamedTuple):
    """Auxiliary features with their roles, of this rank or of all."""

    features: Tensor
    groups: Tensor
    population: Tensor


def acting_step(
    batch: GroupBatch,
    forward: AuxiliaryForward,
    trainer: CriticTrainer,
    pull: Pull,
    objective: Objective,
    *,
    pool: Pool,
    number: int,
    learn: bool,
    world: int,
) -> dict[str, Tensor]:
    """Train the critic on one auxiliary batch and, for an objective that acts there, prepare the pull.

    Rows whose images or features are not finite, or beyond 1e18 and 1e6 in magnitude, belong to no group and not to the
    population; their images are replaced by those of another row, so that no normalisation layer sees them. Should the
    backward pass meet a number that is not finite all the same, this step pulls nothing. Across ranks, every rank sees the
    rows of all, in the order in which one process would have drawn them: the critics stay equal without a reduction of their
    gradients, and n ranks of m rows do what one process does with n times m.

    Args:
        batch: auxiliary rows.
        forward: the extractor without side effects.
        trainer: the critic.
        pull: gets the gradients, if the objective acts on auxiliary rows and the strength is not 0.
        objective: what is minimised.
        pool: how tokens become one row.
        number: how many steps came before, which seeds whatever is random.
        learn: train the critic; otherwise only prepare the pull anew, at other weights.
        world: how many ranks share their rows; all of them must be here, with equally many rows.

    Returns:
        Figures as scalar tensors.
    """
    acts_here = objective.acts_on == "auxiliary"
    pulls = acts_here and pull.strength.value > 0
    with torch.inference_mode(False), forward.lent(with_grad=pulls) as loan:
        images, finite = _finite_rows(forward.placed(batch.images), len(batch.groups))
        raw = forward(images, step=number, with_grad=pulls)
        mask = images.get("attention_mask") if isinstance(images, Mapping) else None
        pooled = pool_features(raw.detach() if isinstance(raw, Tensor) else raw, trainer.feature_dim, pool=pool, mask=mask)
        keep = usable_rows(pooled)
        if finite is not None:
            keep = keep & moved(finite, keep.device)
        own = _Rows(
            blank_rows(pooled, keep),
            torch.where(keep, moved(batch.groups, keep.device), -1),
            moved(batch.population, keep.device) & keep,
        )
        rank = rank_and_world()[0] if world > 1 else 0
        rows = _of_all_ranks(own) if world > 1 else own
        in_play = rows.population | (rows.groups >= 0)
        if learn:
            pull.spread.record(feature_spread(rows.features, in_play), in_play)
            trainer.see(pull.spread.typical)
        weights = gap_weights(rows.groups, rows.population, trainer.n_groups)
        # Before the critic learns from these rows: what it knows of them now it knows of their groups, not of each row.
        usual = type(objective) is TwoSided or not acts_here
        found = trainer.differentiate(rows.features, _gap(weights) if usual else _formula(objective, rows))
        if learn:
            pull.separation.record(found.scores, weights, in_play)
        if pulls and raw.requires_grad:
            if learn:
                pull.coherence.record_pull(rows.features, found.gradient, in_play)
                pull.record_gain()
            mine = found.gradient[rank::world] * world
            at_raw = unpooled(raw, mine, pool=pool, mask=mask)
            # Pooling spreads each row's gradient over its tokens or places, which changes the norm.
            norm = at_raw.norm() if world == 1 else found.gradient.norm() * _ratio(at_raw.norm(), mine.norm())
            factor = pull.factor(norm)
            half = raw.dtype == torch.float16
            scale = HALF_PRECISION_SCALE if half else 1.0
            gradients = loan.gradients(raw, (at_raw * factor * scale).to(raw.dtype))
            value, gradients = _only_finite(found.value, gradients, scale)
            pull.prepare(value, factor, gradients)
        if learn:
            trainer.fit(rows.features, rows.groups, rows.population, weights=weights, step=number)
    return {
        "estimate": found.value if usual else (found.scores * weights).sum(),
        "separation": pull.separation.value,
        "separation_by_chance": pull.separation.chance,
        "critic_gradient_norm": found.gradient.norm(),
        "spread_kept": pull.spread.kept,
        "spread_beside_task": pull.spread.value / moved(pull.task_spread, pull.spread.value.device),
        "coherence_excess": pull.coherence.excess,
        "gain": pull.gain.applied,
        "apart": torch.where(pull.gain.at_limit & pull.separation.is_high, pull.separation.value, 0.0),
        "feature_norm": rows.features.norm(dim=1).mean(),
        "dropped_rows": (~keep).sum(),
    }


def _gap(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """:func:`group_gap` by its weights, which the figures and the critic need too."""
    return lambda scores: (scores * weights).sum()


def _formula(objective: Objective, rows: _Rows) -> Callable[[Tensor], Tensor]:
    return lambda scores: objective(scores, rows.groups, rows.population)


def at_task_rows(
    features: Sequence[Tensor], trainer: CriticTrainer, objective: Objective, *, pool: Pool
) -> tuple[Tensor, list[Tensor]]:
    """An objective on the task's rows and its gradients at their features; rows that are not usable get none.

    Args:
        features: of one pass, forward by forward.
        trainer: the critic.
        objective: what is minimised.
        pool: how tokens become one row.
    """
    detached = [each.detach() for each in features]
    rows = torch.cat([pool_features(each, trainer.feature_dim, pool=pool) for each in detached])
    keep = usable_rows(rows)
    found = trainer.differentiate(blank_rows(rows, keep), lambda scores: objective(scores, None, None))
    parts = blank_rows(found.gradient, keep).split([len(each) for each in detached])
    return found.value, [unpooled(each, part, pool=pool) for each, part in zip(detached, parts, strict=True)]


def _finite_rows(images: Any, count: int) -> tuple[Any, Tensor | None]:
    """Images with rows that are not finite replaced, and which rows are as they were; None where that cannot be told."""
    entries = images if isinstance(images, Mapping) else {"": images}
    floating = {
        name: value
        for name, value in entries.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0 and len(value) == count
    }
    if not floating or any(value.is_nested for value in floating.values()):
        return images, None
    keep = torch.stack([usable_rows(value, largest=LARGEST_INPUT) for value in floating.values()]).all(0)
    replaced = {name: replace_rows(value, keep) for name, value in floating.items()}
    return ({**entries, **replaced} if isinstance(images, Mapping) else replaced[""]), keep


def _of_all_ranks(own: _Rows) -> _Rows:
    rows = torch.cat([own.features, own.groups[:, None], own.population[:, None]], dim=1)
    rows = gathered(rows).transpose(0, 1).flatten(0, 1)
    return _Rows(rows[:, :-2].contiguous(), rows[:, -2].long(), rows[:, -1].bool())


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, torch.ones_like(whole))


def _only_finite(
    value: Tensor, gradients: list[tuple[Tensor, Tensor]], scale: float
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The pull without its scale, or none of it if any gradient holds a number that is not finite."""
    if not gradients:
        return value, []
    local = [own_part(gradient) for _, gradient in gradients]
    norms = torch.stack([moved(norm, value.device) for norm in torch._foreach_norm(local)])
    finite = norms.isfinite().all()
    unscaled = [(parameter, gradient if scale == 1.0 else gradient / scale) for parameter, gradient in gradients]
    if is_free_to_read(finite):
        return (value, unscaled) if finite else (torch.zeros_like(value), [])
    kept = [(parameter, torch.where(moved(finite, each.device), each, 0.0)) for parameter, each in unscaled]
    return torch.where(finite, value, 0.0), kept
