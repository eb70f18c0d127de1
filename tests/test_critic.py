"""The critic's own formula for its slopes beside what autograd finds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from wdpurify import Critic, GradientPenalty
from wdpurify.functional import gradient_penalty, pair_with_population

ACTIVATIONS = {"leaky": lambda: nn.LeakyReLU(0.2), "steep": lambda: nn.LeakyReLU(1.5), "relu": nn.ReLU}


def _drawn(seed, rows, dim, n_groups):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn((rows, dim), generator=generator)
    return points, torch.randint(-1, n_groups, (rows,), generator=generator)


@given(
    st.integers(0, 10_000),
    st.sampled_from(sorted(ACTIVATIONS)),
    st.lists(st.integers(1, 9), max_size=3),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_slopes_and_what_they_teach_are_those_of_autograd(seed, activation, hidden, rows, dim, n_groups):
    critic = Critic(dim, n_groups, hidden=hidden, activation=ACTIVATIONS[activation], seed=seed)
    points, groups = _drawn(seed, rows, dim, n_groups)
    outputs = groups.clamp(min=0)
    leaf = points.clone().requires_grad_()
    (expected,) = torch.autograd.grad(critic(leaf).gather(1, outputs[:, None]).sum(), leaf, create_graph=True)
    found = critic.slopes(points, outputs)
    assert_close(found, expected)
    weights = [layer.weight for layer in list(critic)[::2]]
    towards = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed))
    for ours, theirs in zip(
        torch.autograd.grad((found * towards).sum(), weights),
        torch.autograd.grad((expected * towards).sum(), weights),
        strict=True,
    ):
        assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["tanh", "parametrized", "hook on the weight", "no linear layer", "no activation"])
def test_a_critic_whose_slopes_only_autograd_knows_is_penalised_too(kind):
    critic = Critic(3, 2, hidden=(4,), activation=nn.Tanh if kind == "tanh" else nn.ReLU)
    if kind == "parametrized":
        nn.utils.parametrizations.spectral_norm(critic[0])
    elif kind == "hook on the weight":
        nn.utils.spectral_norm(critic[0])
    elif kind == "no linear layer":
        critic[0] = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    elif kind == "no activation":
        critic[1] = nn.Linear(4, 4)
    critic.eval()  # power iterations of the spectral norm would differ from call to call
    features, groups = _drawn(0, 8, 3, 2)
    population = torch.ones(8, dtype=torch.bool)
    assert critic.slopes(features, groups.clamp(min=0)) is None
    found = GradientPenalty().penalty(critic, features, groups, population, generator=torch.Generator().manual_seed(0))
    mix, order = torch.rand((2, 8), generator=torch.Generator().manual_seed(0))
    points = pair_with_population(features, groups, population, mix=mix, order=order)
    assert_close(found, 10.0 * gradient_penalty(critic, points, groups))
    assert found > 0


def test_the_penalty_is_the_same_by_either_way():
    critic = Critic(3, 2)
    features, groups = _drawn(1, 8, 3, 2)[0], torch.arange(8) % 3 - 1
    population = torch.arange(8) < 6

    class Own(Critic):
        """A class of the user's, of which nothing is known."""

    class Steeper(Critic):
        def forward(self, features):
            return 3.0 * super().forward(features)

    other, steeper = Own(3, 2), Steeper(3, 2)
    known, unknown = (
        GradientPenalty().penalty(each, features, groups, population, generator=torch.Generator().manual_seed(0))
        for each in (critic, other)
    )
    assert_close(known, unknown)
    steep = GradientPenalty().penalty(steeper, features, groups, population, generator=torch.Generator().manual_seed(0))
    assert abs(steep - known) > 0.1
