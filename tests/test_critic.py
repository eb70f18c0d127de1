"""The closed form of the critic's gradients beside autograd."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from wdpurify import Critic, GradientPenalty, WeightClipping
from wdpurify.critic import CriticTrainer
from wdpurify.critic.closed_form import closed_form
from wdpurify.functional import gap_weights

ACTIVATIONS = {"leaky": lambda: nn.LeakyReLU(0.2), "steep": lambda: nn.LeakyReLU(1.5), "relu": nn.ReLU}


class Subclass(Critic):
    """A class of the user's, of which nothing is known."""


class Steeper(Critic):
    def forward(self, features):
        return 3.0 * super().forward(features)


def _batch(seed, rows, dim, n_groups, labels=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn((rows, dim), generator=generator)
    groups = torch.randint(-1, n_groups, (rows, labels) if labels else (rows,), generator=generator)
    population = torch.rand(rows, generator=generator) < 0.7
    return features, gap_weights(groups, population, n_groups), groups, population


def _closed(critic, batch, constraint):
    features, weights, groups, population = batch
    generator = torch.Generator().manual_seed(5)
    form = closed_form(critic, features, weights, constraint, groups, population, generator=generator, updates=1)
    return None if form is None else form.gradients(0)


def _by_autograd(critic, batch, constraint):
    features, weights, groups, population = batch
    penalty = constraint.penalty(critic, features, groups, population, generator=torch.Generator().manual_seed(5))
    loss = penalty - (critic(features) * weights).sum()
    gradients = torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True)
    pairs = zip(critic.parameters(), gradients, strict=True)
    return [torch.zeros_like(parameter) if gradient is None else gradient for parameter, gradient in pairs]


@given(
    st.integers(0, 10_000),
    st.sampled_from(sorted(ACTIVATIONS)),
    st.lists(st.integers(1, 9), max_size=3),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2),
    st.floats(0.1, 20.0),
)
def test_the_closed_form_is_what_autograd_computes(seed, activation, hidden, rows, dim, n_groups, labels, weight):
    critic = Critic(dim, n_groups, hidden=hidden, activation=ACTIVATIONS[activation], seed=seed)
    batch = _batch(seed, rows, dim, n_groups, labels)
    found, expected = _closed(critic, batch, GradientPenalty(weight)), _by_autograd(critic, batch, GradientPenalty(weight))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_groups", [1, 2, 5])
@pytest.mark.parametrize("rows", [6, 32, 129])
def test_the_closed_form_of_the_default_critic_is_that_of_autograd_to_the_last_bit(n_groups, rows):
    for seed, dim in enumerate((2, 64, 513)):
        critic, batch = Critic(dim, n_groups, seed=seed), _batch(seed, rows, dim, n_groups)
        pairs = zip(_closed(critic, batch, GradientPenalty()), _by_autograd(critic, batch, GradientPenalty()), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def _shared(critic):
    critic[2] = critic[0]


CHANGES = {
    "tanh": lambda critic: critic.__setitem__(1, nn.Tanh()),
    "parametrized": lambda critic: nn.utils.parametrizations.spectral_norm(critic[0]),
    "hook on the weight": lambda critic: nn.utils.spectral_norm(critic[0]),
    "no linear layer": lambda critic: critic.__setitem__(0, nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
    "no activation": lambda critic: critic.__setitem__(1, nn.Linear(3, 3)),
    "frozen": lambda critic: critic[0].weight.requires_grad_(False),
    "no bias": lambda critic: critic.__setitem__(0, nn.Linear(3, 3, bias=False)),
    "bias taken away": lambda critic: setattr(critic[2], "bias", None),
    "shared layer": _shared,
    "shared weight": lambda critic: setattr(critic[2], "weight", critic[0].weight),
    "further parameter": lambda critic: critic.register_parameter("further", nn.Parameter(torch.zeros(1))),
    "hook on the critic": lambda critic: critic.register_forward_hook(lambda _module, _inputs, scores: 3.0 * scores),
    "hook on a layer": lambda critic: critic[2].register_forward_pre_hook(lambda _module, inputs: (3.0 * inputs[0],)),
    "hook on a gradient": lambda critic: critic[0].weight.register_hook(lambda gradient: -gradient),
    "forward of its own": lambda critic: setattr(critic[2], "forward", lambda rows: 3.0 * nn.Linear.forward(critic[2], rows)),
}


@pytest.mark.parametrize("kind", [*CHANGES, "a subclass", "clipping"])
def test_where_the_closed_form_does_not_apply_autograd_is_used(kind):
    critic = Subclass(3, 3, hidden=(3,)) if kind == "a subclass" else Critic(3, 3, hidden=(3,))
    CHANGES.get(kind, id)(critic)
    constraint = WeightClipping(10.0) if kind == "clipping" else GradientPenalty()
    features, weights, groups, population = batch = _batch(0, 8, 3, 3)
    assert _closed(critic, batch, constraint) is None
    before = [parameter.clone() for parameter in critic.parameters()]
    trainer = CriticTrainer(critic, 3, n_groups=3, constraint=constraint, lr=1e-2, steps=1, scale_features=False, seed=0)
    trainer.fit(features, groups, population, weights=weights, step=0)
    changed = [not torch.equal(old, new) for old, new in zip(before, critic.parameters(), strict=True)]
    assert sum(changed) >= len(changed) - 2  # the last bias has no gradient; a frozen or further weight stays


def test_both_ways_train_the_critic_alike_and_only_a_class_of_its_own_may_differ():
    features, weights, groups, population = _batch(1, 8, 3, 2)
    trained = []
    for kind in (Critic, Subclass, Steeper):
        critic = kind(3, 2)
        trainer = CriticTrainer(
            critic, 3, n_groups=2, constraint=GradientPenalty(), lr=1e-3, steps=2, scale_features=False, seed=0
        )
        trainer.fit(features, groups, population, weights=weights, step=0)
        trained.append(torch.cat([parameter.detach().flatten() for parameter in critic.parameters()]))
    critic, subclass, steeper = trained
    assert_close(critic, subclass, rtol=0, atol=1e-6)
    assert (critic - steeper).abs().max() > 1e-4
