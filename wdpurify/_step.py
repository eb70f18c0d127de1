"""One acting step: auxiliary rows through the extractor, the critic trained on them, the gap's gradient at their features."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ._auxiliary import AuxiliaryForward
from ._devices import moved
from ._features import blank_rows, pool_features, unpooled, usable_rows
from ._ranks import gathered, rank_and_world
from ._sampler import GroupBatch, Sampler
from ._trainer import CriticTrainer
from .functional import feature_spread, group_gap


class Term(NamedTuple):
    """A purify term as known before the user's backward pass.

    Attributes:
        value: detached scalar.
        features: where it acts.
        gradient: its gradient there, as this rank has to hand it over: the ranks' gradients get averaged.
        norm: norm of the gradient at the features of all ranks together, scalar.
    """

    value: Tensor
    features: Tensor
    gradient: Tensor
    norm: Tensor


class AuxiliaryStep(NamedTuple):
    """What an acting step gives: the two-sided term, if its features carry a graph, and figures as scalar tensors."""

    term: Term | None
    figures: dict[str, Tensor]


def auxiliary_step(
    batch: GroupBatch,
    forward: AuxiliaryForward,
    trainer: CriticTrainer,
    *,
    number: int,
    learn: bool,
    with_grad: bool,
    across_ranks: bool,
) -> AuxiliaryStep:
    """Train the critic on one auxiliary batch and differentiate the gap with respect to its features.

    Rows whose features are not finite, or beyond 1e6 in magnitude, belong to no group and not to the population. Across ranks,
    every rank sees the rows of all, in the order in which one process would have drawn them: the critics stay equal without a
    reduction of their gradients, and n ranks of m rows do what one process does with n times m.

    Args:
        batch: auxiliary rows.
        forward: the extractor without side effects.
        trainer: the critic.
        number: how many steps came before, which seeds whatever is random.
        learn: train the critic; otherwise only differentiate.
        with_grad: record a graph, for a term that reaches the extractor.
        across_ranks: share the rows with the other ranks; all of them must be here, with equally many rows.
    """
    with_grad = with_grad and torch.is_grad_enabled()
    raw = forward(batch.images, step=number, with_grad=with_grad)
    pooled = pool_features(raw.detach() if isinstance(raw, Tensor) else raw, trainer.feature_dim)
    keep = usable_rows(pooled)
    features = blank_rows(pooled, keep)
    groups = torch.where(keep, moved(batch.groups, keep.device), -1)
    population = moved(batch.population, keep.device) & keep
    rank, world = rank_and_world() if across_ranks else (0, 1)
    if world > 1:
        rows = torch.cat([features, groups[:, None], population[:, None]], dim=1)
        rows = gathered(rows).transpose(0, 1).flatten(0, 1)
        features, groups, population = rows[:, :-2].contiguous(), rows[:, -2].long(), rows[:, -1].bool()
    if learn:
        trainer.fit(features, groups, population, step=number)
    gap, gradient = trainer.differentiate(features, lambda scores, _: group_gap(scores, groups, population))
    norm = gradient.norm()
    spread = feature_spread(features, population)
    figures = {
        "estimate": gap,
        "separation": gap / spread.clamp(min=torch.finfo(torch.float32).tiny),
        "critic_gradient_norm": norm,
        "feature_norm": features.norm(dim=1).mean(),
        "dropped_rows": (~keep).sum(),
    }
    if not (with_grad and raw.requires_grad):
        return AuxiliaryStep(None, figures)
    own = unpooled(raw, gradient[rank::world] * world)
    # Pooling is a mean over positions: it spreads each row's gradient over them evenly.
    return AuxiliaryStep(Term(gap, raw, own, norm * (pooled.numel() / raw.numel()) ** 0.5), figures)


def feature_width(forward: AuxiliaryForward, sampler: Sampler) -> int:
    """Width of the extractor's features, by a forward of two auxiliary rows that leaves sampler and model as they were."""
    position = sampler.state_dict()
    images = forward.draw(sampler, step=-1).images
    sampler.load_state_dict(position)
    two = {name: value[:2] for name, value in images.items()} if isinstance(images, Mapping) else images[:2]
    return int(pool_features(forward(two, step=-1, with_grad=False), None).shape[1])
