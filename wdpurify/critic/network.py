"""The Wasserstein critic: a small fully connected network."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from wdpurify._checks import check_positive_integer
from wdpurify._torch import private_randomness


def leaky_relu() -> nn.Module:
    """Return the default activation: unlike ReLU it has no zero slope, so the critic cannot die."""
    return nn.LeakyReLU(0.2)


class Critic(nn.Sequential):
    """Fully connected critic with one output per group.

    Always float32. A private generator draws the weights, so construction does not change the global random state.

    Args:
        feature_dim: width of the features, at least 1.
        n_groups: number of outputs, at least 1.
        hidden: widths of the hidden layers; the paper's are ``(512, 256, 10)``.
        activation: makes one activation module; the certified bound needs a slope of at most 1.
        seed: seed of the initial weights.

    Raises:
        ValueError: if a width is below 1.

    Source: Li et al. 2021, arXiv:2102.10955, Sec. IV-A, which does not state the activation. The narrower default has an
    eighth of the weights and did better in our measurements (docs/findings.md). Initial weights as in ``nn.Linear``.
    """

    def __init__(
        self,
        feature_dim: int,
        n_groups: int = 1,
        *,
        hidden: Sequence[int] = (128, 64),
        activation: Callable[[], nn.Module] = leaky_relu,
        seed: int = 0,
    ) -> None:
        widths = (feature_dim, *hidden, n_groups)
        if not all(width >= 1 for width in widths):
            raise ValueError(f"`feature_dim`, `hidden` and `n_groups` must be at least 1, got widths {widths}")
        generator = torch.Generator("cpu").manual_seed(seed)
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            linear: nn.Linear = nn.utils.skip_init(nn.Linear, width_in, width_out, device="cpu", dtype=torch.float32)
            bound = 1 / math.sqrt(width_in)
            with torch.no_grad():
                linear.weight.uniform_(-bound, bound, generator=generator)
                linear.bias.uniform_(-bound, bound, generator=generator)
            layers += [linear, activation()]
        super().__init__(*layers[:-1])


def build_critic(
    critic: nn.Module | Callable[[int, int], nn.Module], feature_dim: int, n_groups: int, *, seed: int
) -> nn.Module:
    """Build the critic from the ``critic`` argument and check its input and output widths.

    Args:
        critic: a module, or a factory ``(feature_dim, n_groups) -> nn.Module``. :class:`Critic`, also in a ``partial``
            without a seed, gets ``seed``; other factories draw from a private random stream with that seed.
        feature_dim: required input width.
        n_groups: required number of outputs.
        seed: seed of the weights.

    Raises:
        ValueError: if the critic does not accept the features or has another number of outputs.
    """
    check_positive_integer("feature_dim", feature_dim)
    if not isinstance(critic, nn.Module):
        if critic is Critic or (isinstance(critic, partial) and critic.func is Critic and "seed" not in critic.keywords):
            critic = partial(critic, seed=seed)
        with private_randomness(torch.device("cpu"), seed):
            critic = critic(feature_dim, n_groups)
    example = next(critic.parameters()).new_zeros((2, feature_dim))
    try:
        with torch.no_grad():
            shape = tuple(critic(example).shape)
    except RuntimeError as error:
        raise ValueError(f"`critic` must map (batch, {feature_dim}) to (batch, {n_groups}), but it failed: {error}") from error
    if shape != (2, n_groups):
        raise ValueError(f"`critic` must map (batch, {feature_dim}) to (batch, {n_groups}), got {shape} for a batch of 2")
    return critic
