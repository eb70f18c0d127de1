"""What the regularizer measures, against exact distances."""

import math

import ot
import pytest
import torch
from small_loop import small_network, small_sampler, train
from torch import nn
from torch.testing import assert_close

from wdpurify import (
    BalancedStrength,
    GradientPenalty,
    GroupSampler,
    PurifyRegularizer,
    SpectralClipping,
    WeightClipping,
)


@pytest.mark.filterwarnings("ignore::wdpurify.exceptions.CriticWarning")  # that is what 200 steps of clipping do
@pytest.mark.parametrize("constraint", [GradientPenalty(), SpectralClipping(), WeightClipping(0.1)])
def test_estimate_per_lipschitz_never_exceeds_the_exact_distance(constraint):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((64, 2), generator=generator)
    images[:32] += torch.tensor([3.0, 0.0])
    groups = ["a"] * 32 + ["b"] * 32
    sampler = GroupSampler(images, groups, batch_size=64)
    extract = nn.Linear(2, 2)
    nn.init.eye_(extract.weight), nn.init.zeros_(extract.bias)
    purify = PurifyRegularizer(
        extract, sampler, feature_dim=2, constraint=constraint, strength=0.0, every=1, critic_lr=1e-2, critic_steps=200
    )
    purify.critic_step()  # learns
    purify.critic_step()  # reads what was learned
    exact = []
    for label in ("a", "b"):
        members = images[[group == label for group in groups]].double().numpy()
        cost = ot.dist(members, images.double().numpy(), metric="euclidean")
        exact.append(ot.emd2([], [], cost))
    distance = sum(exact) / 2
    metrics = purify.metrics()
    assert 0 < metrics.estimate_per_lipschitz <= distance
    if isinstance(constraint, GradientPenalty):  # the penalty holds the slope near 1, so the raw estimate is close
        assert_close(metrics.estimate, distance, rtol=0.15, atol=0)


def test_metrics_are_plain_numbers_and_nan_before_the_first_step():
    purify = PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6)
    assert math.isnan(purify.metrics().estimate)
    purify.critic_step()
    metrics = purify.metrics()
    assert all(isinstance(value, float) for value in metrics)
    assert metrics.feature_norm > 0
    assert metrics.critic_gradient_norm > 0


def test_what_was_measured_is_ready_for_a_logger():
    purify = PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6)
    purify.critic_step()
    metrics = purify.metrics()
    assert math.isnan(metrics.gradient_ratio)  # no backward pass yet
    named = metrics.as_dict(everything=True)
    assert named["purify/separation"] == metrics.separation
    assert set(named) == {f"purify/{name}" for name, value in metrics._asdict().items() if value == value}
    assert "purify_strength" in metrics.as_dict("purify_", everything=True)


def test_gradient_ratio_reports_what_was_applied():
    extract = nn.Linear(4, 3)
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    strength = BalancedStrength(0.25, fade=0)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, strength=strength, every=1)
    for _ in range(2):
        extract.zero_grad()
        purify.critic_step()
        features = extract(torch.ones(5, 4))
        (features.sum() + purify.loss(features)).backward()
        purify.optimizer_stepped()
    assert_close(purify.metrics().gradient_ratio, 0.25, rtol=1e-4, atol=0)


def test_gradient_ratio_between_micro_batches_is_that_of_whole_iterations():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    sampler = GroupSampler(torch.randn(64, 8), [0, 1] * 32, batch_size=64)
    purify = PurifyRegularizer.for_model(model, sampler, strength=BalancedStrength(0.5, fade=0, most=1, keep=0))
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    images, labels = torch.randn(64, 8), torch.randint(3, (64,))
    for _ in range(3):
        optimizer.zero_grad()
        ratios = []
        for part in range(8):
            (criterion(model(images[part::8]), labels[part::8]) / 8).backward()
            ratios.append(purify.metrics().gradient_ratio)
        optimizer.step()
    assert_close(ratios, ratios[:1] * 8, rtol=2e-2, atol=0)  # of the last iteration, and of this one after its last pass


def test_feature_norm_counts_the_rows_that_are_used():
    images = torch.full((40, 4), 2.0)
    images[::5] = math.nan
    sampler = GroupSampler(images, [0, 1] * 20, batch_size=20)
    purify = PurifyRegularizer(nn.Identity(), sampler, feature_dim=4, strength=0.0)
    purify.critic_step()
    assert purify.metrics().dropped_rows > 0
    assert_close(purify.metrics().feature_norm, 4.0)


def test_groups_that_are_apart_have_an_advice_and_others_none():
    network = small_network(norm=False)
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6)
    train(network, purify, 3)
    figures = purify.metrics()
    apart = figures._replace(separation=0.9, separation_by_chance=0.2)
    assert "purify.erase(loader)" in apart.advice
    assert apart.advice in str(apart)
    for separation, chance in ((0.3, 0.1), (0.9, 0.5), (math.nan, math.nan)):
        assert figures._replace(separation=separation, separation_by_chance=chance).advice == ""
