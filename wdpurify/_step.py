"""One acting step: auxiliary rows through the extractor, the critic trained on them, the gap's gradient at their features."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ._auxiliary import AuxiliaryForward
from ._devices import moved
from ._features import blank_rows, pool_features, usable_rows
from ._sampler import GroupBatch, Sampler
from ._trainer import CriticTrainer
from .functional import feature_spread, group_gap


class Term(NamedTuple):
    """A purify term as known before the user's backward pass: its value, where it acts, and its gradient there."""

    value: Tensor
    features: Tensor
    gradient: Tensor


class AuxiliaryStep(NamedTuple):
    """What an acting step gives: the two-sided term, if its features carry a graph, and figures as scalar tensors."""

    term: Term | None
    figures: dict[str, Tensor]


def auxiliary_step(
    batch: GroupBatch, forward: AuxiliaryForward, trainer: CriticTrainer, *, number: int, with_grad: bool
) -> AuxiliaryStep:
    """Train the critic on one auxiliary batch and differentiate the gap with respect to its features.

    Rows whose features are not finite, or beyond 1e6 in magnitude, belong to no group and not to the population.

    Args:
        batch: auxiliary rows.
        forward: the extractor without side effects.
        trainer: the critic.
        number: how many steps came before, which seeds whatever is random.
        with_grad: record a graph, for a term that reaches the extractor.
    """
    with_grad = with_grad and torch.is_grad_enabled()
    raw = forward(batch.images, step=number, with_grad=with_grad)
    pooled = pool_features(raw.detach() if isinstance(raw, Tensor) else raw, trainer.feature_dim)
    keep = usable_rows(pooled)
    features = blank_rows(pooled, keep)
    groups = torch.where(keep, moved(batch.groups, keep.device), -1)
    population = moved(batch.population, keep.device) & keep
    trainer.fit(features, groups, population, step=number)
    gap, gradient = trainer.differentiate(raw, lambda scores, _: group_gap(scores, groups, population))
    spread = feature_spread(features, population)
    figures = {
        "estimate": gap,
        "separation": gap / spread.clamp(min=torch.finfo(torch.float32).tiny),
        "critic_gradient_norm": gradient.norm(),
        "feature_norm": features.norm(dim=1).mean(),
        "dropped_rows": (~keep).sum(),
    }
    return AuxiliaryStep(Term(gap, raw, gradient) if with_grad and raw.requires_grad else None, figures)


def feature_width(forward: AuxiliaryForward, sampler: Sampler) -> int:
    """Width of the extractor's features, by a forward of two auxiliary rows that leaves sampler and model as they were."""
    position = sampler.state_dict()
    images = forward.draw(sampler, step=-1).images
    sampler.load_state_dict(position)
    two = {name: value[:2] for name, value in images.items()} if isinstance(images, Mapping) else images[:2]
    return int(pool_features(forward(two, step=-1, with_grad=False), None).shape[1])
