"""PurifyRegularizer in a loop: what moves, in which direction, how often, under which constraint."""

import copy
import math

import pytest
import torch
from small_loop import OBJECTIVES, equal_states, small_network, small_sampler, state_of, train
from torch import nn
from torch.testing import assert_close

import wdpurify
from wdpurify import (
    BalancedStrength,
    Critic,
    FixedStrength,
    GroupSampler,
    OneSided,
    PurifyRegularizer,
    SpectralClipping,
    TwoSided,
    WeightClipping,
)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_purify_gradients_arrive_and_strength_zero_is_bit_identical_to_the_plain_run(objective):
    plain = small_network(dropout=0.5)
    watched, purified = copy.deepcopy(plain), copy.deepcopy(plain)
    runs = []
    for network, strength in ((plain, None), (watched, 0.0), (purified, BalancedStrength(1.0, fade=0))):
        torch.manual_seed(7)
        options = {"objective": objective, "strength": strength}
        purify = None if strength is None else PurifyRegularizer(network.features, small_sampler(), feature_dim=6, **options)
        losses = train(network, purify, 7)
        runs.append((losses, state_of(network), torch.get_rng_state()))
    assert runs[0][0] == runs[1][0]
    assert equal_states(runs[0][1], runs[1][1])
    assert torch.equal(runs[0][2], runs[1][2])
    assert not equal_states(runs[0][1], runs[2][1])
    assert torch.equal(runs[0][2], runs[2][2])  # dropout in auxiliary forwards draws from a stream of its own


def test_loss_moves_task_features_towards_the_population_or_the_group_as_named():
    # A has mean -1, B (the population) has mean +1; the extractor is the identity.
    images = torch.cat([torch.full((40, 2), -1.0), torch.full((40, 2), 1.0)]) + 0.1 * torch.randn(80, 2)
    for toward, sign in (("population", 1.0), ("group", -1.0)):
        sampler = GroupSampler(images, ["a"] * 40 + ["b"] * 40, fixed="a", batch_size=32)
        extract = nn.Linear(2, 2)
        nn.init.eye_(extract.weight), nn.init.zeros_(extract.bias)
        purify = PurifyRegularizer(
            extract, sampler, feature_dim=2, objective=OneSided(toward=toward), strength=FixedStrength(1.0), every=1
        )
        for _ in range(60):
            purify.critic_step()
            purify.optimizer_stepped()
        features = torch.zeros((4, 2), requires_grad=True)
        purify.loss(features).backward()
        assert (sign * -features.grad > 0).all()


def test_two_sided_training_brings_the_groups_together_and_leaves_them_apart_without_strength():
    def separation(strength):
        torch.manual_seed(0)
        network = small_network(norm=False)
        purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, strength=strength, every=1)
        train(network, purify, 60)
        return purify.metrics().separation

    assert separation(2.0) < 0.5 * separation(0.0)


def test_as_published_is_the_papers_setting_and_differs_from_the_default():
    purify = PurifyRegularizer.as_published(
        small_network().features, small_sampler(fixed=0), feature_dim=6, objective=OneSided("group")
    )
    assert purify.objective == OneSided("group")
    assert purify.state_dict()["options"]["every"] == "3"
    assert isinstance(purify.strength, FixedStrength)
    assert purify.strength.value == 1.0
    assert max(weight.abs().max() for weight in purify.critic.parameters()) <= 0.1
    assert [layer.out_features for layer in purify.critic if isinstance(layer, nn.Linear)] == [512, 256, 10, 1]
    assert PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6).objective == TwoSided()


def test_every_says_which_calls_act():
    purify = PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6, strength=0.0, every=3)
    changed = []
    for _ in range(7):
        before = state_of(purify.critic)
        purify.critic_step()
        changed.append(not equal_states(before, state_of(purify.critic)))
    assert changed == [True, False, False, True, False, False, True]


def test_critic_steps_and_learning_rate_are_used():
    def moved(**options):
        purify = PurifyRegularizer(
            small_network().features, small_sampler(), feature_dim=6, constraint=WeightClipping(100.0), **options
        )
        before = torch.cat([weight.detach().flatten() for weight in purify.critic.parameters()])
        purify.critic_step()
        return (torch.cat([weight.detach().flatten() for weight in purify.critic.parameters()]) - before).abs().max().item()

    # Adam's first step moves a weight by the learning rate.
    assert_close(moved(critic_lr=1e-2, critic_steps=1), 1e-2, rtol=1e-3, atol=0)
    assert moved(critic_lr=1e-2, critic_steps=5) > 2e-2


@pytest.mark.parametrize("constraint", [WeightClipping(0.05), SpectralClipping(1.0)])
def test_constraint_holds_at_the_start_after_steps_and_after_loading(constraint):
    def holds(critic):
        if isinstance(constraint, WeightClipping):
            return max(weight.abs().max() for weight in critic.parameters()) <= 0.05
        return wdpurify.lipschitz.lipschitz_bound(critic) <= 1.0 + 1e-6

    loose = Critic(6, 3)
    with torch.no_grad():
        for parameter in loose.parameters():
            parameter.mul_(50.0)
    assert not holds(loose)
    purify = PurifyRegularizer(
        small_network().features, small_sampler(), feature_dim=6, constraint=constraint, critic=copy.deepcopy(loose)
    )
    assert holds(purify.critic)
    purify.critic_step()
    assert holds(purify.critic)
    state = purify.state_dict() | {"critic": loose.state_dict()}
    purify.load_state_dict(state)
    assert holds(purify.critic)


def test_a_critic_that_is_loaded_is_the_saved_one_bit_for_bit():
    def made():
        torch.manual_seed(0)
        return PurifyRegularizer(
            small_network().features, small_sampler(), feature_dim=6, constraint=SpectralClipping(1.0), critic_lr=3e-2
        )

    first, second = made(), made()
    for _ in range(12):
        first.critic_step()
        second.load_state_dict(first.state_dict())
        assert equal_states(state_of(first.critic), state_of(second.critic))


@pytest.mark.parametrize("option", ["strength", "sampler", "objective", "every", "critic_lr"])
def test_an_option_that_is_set_later_is_refused_with_what_can_be_set(option):
    purify = PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6)
    with pytest.raises(AttributeError, match=f"`{option}` is fixed .*`purify.strength.value = 0.1`"):
        setattr(purify, option, 0.1)
    purify.strength.value = 0.1
    assert purify.metrics().strength == 0.1


def test_a_regularizer_made_in_inference_mode_is_refused():
    with torch.inference_mode(), pytest.raises(RuntimeError, match="Make the regularizer outside"):
        PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6)


def test_rare_values_and_values_missing_from_a_batch_are_handled():
    images = torch.randn(400, 4)
    sampler = GroupSampler(images, [str(row % 100) for row in range(400)], batch_size=8)
    extract = nn.Linear(4, 3)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, every=1)
    for _ in range(3):
        purify.critic_step()
        features = extract(torch.randn(5, 4))
        (features.sum() + purify.loss(features)).backward()
    assert extract.weight.grad.isfinite().all()
    assert math.isfinite(purify.metrics().estimate)


@pytest.mark.parametrize("shape", [(5, 6), (5, 7, 6), (5, 6, 2, 3), (5, 2, 3, 6)])
def test_features_of_every_documented_shape_are_pooled(shape):
    purify = PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6, objective=OneSided(), every=1)
    for _ in range(2):
        purify.critic_step()
        features = torch.randn(shape, requires_grad=True)
        (features.sum() + purify.loss(features)).backward()
        purify.optimizer_stepped()
    assert features.grad.shape == shape
    assert not torch.equal(features.grad, torch.ones(shape))
