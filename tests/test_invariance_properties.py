"""What a user's set-up changes must not change the pull: scale and width of features, groups' order, loss scale, batches."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from wdpurify import BalancedStrength, GroupSampler, PurifyRegularizer
from wdpurify.functional import group_gap, score_spread


def _separation(features, groups, *, steps=60, batch_size=32, lr=3e-3):
    """What a critic reads on rows it has not yet learned from, after some steps on features that do not change."""
    sampler = GroupSampler(features, groups, batch_size=batch_size)
    extract = nn.Identity()
    purify = PurifyRegularizer(extract, sampler, feature_dim=features.shape[1], strength=0.0, every=1, critic_lr=lr)
    for _ in range(steps):
        purify.critic_step()
    return purify.metrics().separation


def _groups_apart(rows=256, dim=8, apart=2.0, groups=2):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % groups
    features = torch.randn((rows, dim), generator=generator)
    features[:, 0] += apart * labels
    return features, labels.tolist()


def test_separation_reads_chance_on_shuffled_labels_and_not_where_a_label_can_be_told():
    features, labels = _groups_apart(rows=4096)  # each row comes once: what the critic knows by heart is not held out
    shuffled = [labels[row] for row in torch.randperm(len(labels), generator=torch.Generator().manual_seed(1)).tolist()]
    assert _separation(features, labels) > 0.4
    assert abs(_separation(features, shuffled)) < 0.15


@pytest.mark.parametrize("width", [8, 64, 512])
def test_separation_does_not_fall_with_dimensions_that_repeat_others(width):
    features, labels = _groups_apart()
    repeated = features.repeat(1, width // 8) / math.sqrt(width / 8)
    assert _separation(repeated, labels) > 0.4


@given(st.sampled_from([2.0**-10, 2.0**-3, 1.0, 2.0**5, 2.0**10]), st.integers(0, 100))
def test_gap_over_spread_of_scores_is_free_of_the_scores_scale(scale, seed):
    scores = torch.randn((12, 3), generator=torch.Generator().manual_seed(seed))
    groups, population = torch.arange(12) % 3, torch.ones(12, dtype=torch.bool)
    plain = group_gap(scores, groups, population) / score_spread(scores, population)
    scaled = group_gap(scale * scores, groups, population) / score_spread(scale * scores, population)
    assert_close(scaled, plain)


def _reference_spread(scores, population):
    rows = scores[population].double().numpy()
    return rows.std(axis=0).mean()


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(2, 10))
def test_score_spread_is_the_mean_standard_deviation_over_the_population(seed, outputs, rows):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn((rows, outputs), generator=generator)
    population = torch.arange(rows) % 3 != 1
    assert_close(score_spread(scores, population).double().item(), _reference_spread(scores, population), rtol=1e-4, atol=1e-5)


def _applied_ratio(scale=1.0, loss_scale=1.0, order=1, task_rows=16, aux_rows=16, dim=6):
    """Applied over task gradient once the balance is known; the fade is off, so it is to be the strength."""
    torch.manual_seed(0)
    extract = nn.Linear(8, dim)
    with torch.no_grad():
        extract.weight.mul_(scale)
        extract.bias.mul_(scale)
    images, labels = _groups_apart()
    names = ["a", "b"][::order]
    sampler = GroupSampler(images, [names[label] for label in labels], batch_size=aux_rows)
    purify = PurifyRegularizer(extract, sampler, feature_dim=dim, strength=BalancedStrength(0.5, fade=0), every=1)
    rows, weights = torch.randn(task_rows, 8), torch.randn(dim)
    optimizer = torch.optim.SGD(extract.parameters(), 0.0)
    for _ in range(3):
        optimizer.zero_grad()
        purify.critic_step()
        features = extract(rows)
        (((features @ weights).square().mean() + purify.loss(features)) * loss_scale).backward()
        optimizer.step()
    return purify.metrics().gradient_ratio


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("loss_scale", [2.0**-10, 1.0, 2.0**16])
def test_the_ratio_of_the_pull_is_free_of_the_scales_of_features_and_loss(scale, loss_scale):
    assert_close(_applied_ratio(scale=scale, loss_scale=loss_scale), 0.5, rtol=1e-3, atol=0)


@pytest.mark.parametrize("task_rows", [8, 256])
@pytest.mark.parametrize("aux_rows", [8, 256])
@pytest.mark.parametrize("order", [1, -1])
def test_the_ratio_of_the_pull_is_free_of_batch_sizes_and_of_the_order_of_groups(task_rows, aux_rows, order):
    assert_close(_applied_ratio(task_rows=task_rows, aux_rows=aux_rows, order=order), 0.5, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dim", [6, 600])
def test_the_ratio_of_the_pull_is_free_of_the_width_of_the_features(dim):
    assert_close(_applied_ratio(dim=dim), 0.5, rtol=1e-3, atol=0)
