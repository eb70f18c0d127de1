"""Assembles the parts of a regularizer from its options."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from ._auxiliary_step import AuxiliaryStep
from ._checks import check_object, check_positive_integer
from ._loop import Loop
from ._sampler import Sampler, check_sampler
from ._state import Checkpoint
from ._torch import owner_of, refuse_some_of_the_ranks
from .critic import Constraint, CriticTrainer, build_critic
from .erasure import Erasing
from .features import AuxiliaryForward, FeatureTap, Pool
from .pull import Objective, Strength, StrengthController


class Parts(NamedTuple):
    """The parts of a regularizer.

    Attributes:
        forward: runs the extractor without side effects.
        trainer: trains the critic.
        loop: orders the work of each pass.
        checkpoint: saves and loads the state.
        erasing: erases the nuisance after training.
    """

    forward: AuxiliaryForward
    trainer: CriticTrainer
    loop: Loop
    checkpoint: Checkpoint
    erasing: Erasing


def assemble(
    extract: Callable[..., Any],
    sampler: Sampler,
    *,
    feature_dim: int | None,
    objective: Objective,
    strength: Strength,
    constraint: Constraint,
    critic: nn.Module | Callable[[int, int], nn.Module],
    critic_lr: float,
    critic_steps: int,
    scale_features: bool,
    every: int,
    pool: Pool,
    update_statistics: bool,
    model: nn.Module | None,
    seed: int,
) -> Parts:
    """Assemble the parts; arguments and errors are those of ``PurifyRegularizer``."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError("the critic cannot be trained under `torch.inference_mode()`. Make the regularizer outside of it")
    check_sampler(sampler)
    check_object("extract", extract, ("__call__",), "Give the module, or a function of its inputs that returns features")
    check_object("seed", seed, ("__index__",), "Give an integer")
    owner = extract.model if isinstance(extract, FeatureTap) else model if model is not None else owner_of(extract)
    if owner is None:
        raise ValueError("`extract` is a plain function: say with `model=...` whose BatchNorm statistics it runs through")
    refuse_some_of_the_ranks(owner)
    forward = AuxiliaryForward(extract, owner, update_statistics=update_statistics, seed=seed)
    forward.warn_of_left_out(sampler)
    if feature_dim is None:
        feature_dim = forward.width(sampler, pool=pool)
    trainer = CriticTrainer(
        build_critic(critic, feature_dim, sampler.n_groups, seed=seed),
        feature_dim,
        n_groups=sampler.n_groups,
        constraint=constraint,
        lr=critic_lr,
        steps=critic_steps,
        scale_features=scale_features,
        seed=seed,
    )
    check_positive_integer("every", every)
    controller = StrengthController(strength, feature_dim, every=every)
    step = AuxiliaryStep(forward, sampler, trainer, controller, objective=objective, pool=pool, every=every)
    loop = Loop(forward, trainer, controller, step, every=every)
    saved = {"every": every, "objective": objective, "feature_dim": feature_dim, "pool": pool}
    checkpoint = Checkpoint(saved, trainer, {"loop": loop, "controller": controller, "sampler": sampler}, forward)
    erasing = Erasing(forward, sampler, feature_dim=feature_dim, pool=pool, seed=seed)
    return Parts(forward, trainer, loop, checkpoint, erasing)
