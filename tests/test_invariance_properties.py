"""What a user's set-up changes must not change the pull: scale and width of features, groups' order, loss scale, batches."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from wdpurify import BalancedStrength, GroupSampler, PurifyRegularizer
from wdpurify.functional import gap_weights, group_gap
from wdpurify.pull.separation import Separation, relative_gap


def _watched(features, groups, *, steps=60, batch_size=32, **options):
    """What a critic reads on rows it has not yet learned from, after some steps on features that do not change."""
    sampler = GroupSampler(features, groups, batch_size=batch_size)
    purify = PurifyRegularizer(nn.Identity(), sampler, feature_dim=features.shape[1], strength=0.0, **options)
    for _ in range(steps):
        purify.critic_step()
        purify.optimizer_stepped()
    return purify.metrics()


def _separation(features, groups, **options):
    return _watched(features, groups, **options).separation


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


@pytest.mark.parametrize("width", [8, 256])
@pytest.mark.parametrize("scale", [2.0**-10, 1e-3, 0.1, 30.0, 1e3, 2.0**10])
def test_what_the_critic_learns_is_free_of_the_scale_of_the_features(scale, width):
    features, labels = _groups_apart(dim=width)
    plain, scaled = _watched(features, labels), _watched(features * scale, labels)
    assert plain.separation > 3 * plain.separation_by_chance
    assert_close(scaled.separation, plain.separation, rtol=1e-2, atol=0)
    assert_close(scaled.estimate / scale, plain.estimate, rtol=1e-2, atol=0)
    assert_close(scaled.critic_gradient_norm, plain.critic_gradient_norm, rtol=1e-2, atol=0)


def test_the_published_critic_reads_features_as_they_come():
    features, labels = _groups_apart()
    plain, scaled = (_watched(features * scale, labels, scale_features=False, critic_lr=1e-3) for scale in (1.0, 2.0**-10))
    assert plain.separation > 3 * plain.separation_by_chance
    assert scaled.separation < 0.5 * plain.separation


def _published(scale):
    features, labels = _groups_apart()
    sampler = GroupSampler(features * scale, labels, fixed=1, batch_size=32)
    purify = PurifyRegularizer.as_published(nn.Identity(), sampler, feature_dim=8, strength=0.0, every=1)
    purify.critic_step()
    return purify


def test_the_published_preset_has_such_a_critic():
    purify = _published(1.0)
    assert purify.state_dict()["spread"] == 0.0  # nothing was scaled
    assert _published(1024.0).metrics().estimate != pytest.approx(1024.0 * purify.metrics().estimate, rel=0.1)


def test_gap_and_separation_are_read_before_the_critic_learns_from_the_batch():
    features, labels = _groups_apart(rows=32)
    sampler = GroupSampler(features, labels, batch_size=32)
    purify = PurifyRegularizer(nn.Identity(), sampler, feature_dim=8, strength=0.0)
    untrained = copy.deepcopy(purify.critic)
    purify.critic_step()
    groups, population = torch.tensor(labels), torch.ones(32, dtype=torch.bool)
    spread = (features - features.mean(0)).square().mean().sqrt()
    gaps = [(spread * group_gap(critic(features / spread), groups, population)).item() for critic in (untrained, purify.critic)]
    assert_close(purify.metrics().estimate, gaps[0], rtol=1e-4, atol=1e-6)
    assert abs(gaps[1] - gaps[0]) > 1e-3 * spread  # it has learned since


def test_features_without_spread_leave_the_unit_as_it_was():
    sampler = GroupSampler(torch.ones(8, 3), [0, 1] * 4, batch_size=4)
    purify = PurifyRegularizer(nn.Identity(), sampler, feature_dim=3, strength=0.0)
    purify.critic_step()
    metrics = purify.metrics()
    assert (metrics.estimate, metrics.separation) == (0.0, 0.0)
    assert purify.state_dict()["spread"] == 0.0


def _batch(seed, rows=6, outputs=2):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn((rows, outputs), generator=generator, dtype=torch.float64)
    groups = torch.arange(rows) % (outputs + 1) - 1
    population = torch.randint(2, (rows,), generator=generator).bool()
    population[:2] = True
    return scores, groups, population


def _relative_gap(scores, groups, population):
    return relative_gap(scores, gap_weights(groups, population, scores.shape[1]), population | (groups >= 0))


@given(st.integers(0, 10_000), st.integers(3, 6), st.integers(1, 3))
def test_relative_gap_and_its_variance_are_those_over_all_permutations(seed, rows, outputs):
    scores, groups, population = _batch(seed, rows, outputs)
    in_play = population | (groups >= 0)
    chosen = scores[in_play]
    spread = chosen.std(0, correction=0).mean()
    found = [
        group_gap(chosen[list(order)], groups[in_play], population[in_play]) / spread
        for order in itertools.permutations(range(len(chosen)))
    ]
    gap, variance = _relative_gap(scores, groups, population)
    assert_close(gap, found[0], rtol=1e-5, atol=1e-6)
    assert abs(sum(found) / len(found)) < 1e-6
    assert_close(variance, torch.stack(found).var(correction=0), rtol=1e-5, atol=1e-6)


@given(st.sampled_from([2.0**-10, 2.0**-3, 1.0, 2.0**5, 2.0**10]), st.floats(-5, 5), st.integers(0, 100))
def test_relative_gap_is_free_of_the_scale_and_the_offset_of_the_scores(scale, offset, seed):
    scores, groups, population = _batch(seed)
    assert_close(_relative_gap(scale * (scores + offset), groups, population), _relative_gap(scores, groups, population))


@pytest.mark.parametrize("value", [0.0, 1e-30, 3.3, 1e6])
def test_equal_scores_tell_no_groups_apart(value):
    _, groups, population = _batch(0)
    gap, variance = _relative_gap(torch.full((6, 2), value), groups, population)
    assert abs(gap.item()) <= 3  # no more than rounding noise can give
    assert variance.isfinite()


def test_separation_by_chance_is_what_permuted_labels_stay_below():
    scores, groups, population = _batch(3, rows=24, outputs=3)
    weights, in_play = gap_weights(groups, population, 3), population | (groups >= 0)
    generator = torch.Generator().manual_seed(0)
    below = 0
    for _ in range(400):
        separation = Separation()
        for _ in range(30):
            separation.record(scores[torch.randperm(24, generator=generator)], weights, in_play)
        below += int(separation.value.abs() < separation.chance)
    assert 0.92 < below / 400 < 0.98


def _applied_ratio(scale=1.0, loss_scale=1.0, order=1, task_rows=16, aux_rows=16, dim=6, every=1, iterations=3):
    """Applied over task gradient once the balance is known; the fade is off, so it is to be half of ``every``.

    The task's rows ask for this and that here. So a pull from more rows than the task has is weakened by what is also returned.
    """
    torch.manual_seed(0)
    extract = nn.Linear(8, dim)
    with torch.no_grad():
        extract.weight.mul_(scale)
        extract.bias.mul_(scale)
    images, labels = _groups_apart()
    names = ["a", "b"][::order]
    sampler = GroupSampler(images, [names[label] for label in labels], batch_size=aux_rows)
    purify = PurifyRegularizer(extract, sampler, feature_dim=dim, strength=BalancedStrength(0.5 * every, fade=0), every=every)
    rows, weights = torch.randn(task_rows, 8), torch.randn(dim)
    optimizer = torch.optim.SGD(extract.parameters(), 0.0)
    for _ in range(iterations):
        optimizer.zero_grad()
        purify.critic_step()
        features = extract(rows)
        (((features @ weights).square().mean() + purify.loss(features)) * loss_scale).backward()
        optimizer.step()
    assert purify.sampler.state_dict()["drawn"] == -(-iterations // every)
    metrics = purify.metrics()
    return metrics.gradient_ratio, metrics.coherence_excess


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("loss_scale", [2.0**-10, 1.0, 2.0**16])
def test_the_ratio_of_the_pull_is_free_of_the_scales_of_features_and_loss(scale, loss_scale):
    assert_close(_applied_ratio(scale=scale, loss_scale=loss_scale), (0.5, 1.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("task_rows", [8, 256])
@pytest.mark.parametrize("aux_rows", [8, 256])
@pytest.mark.parametrize("order", [1, -1])
def test_the_ratio_is_free_of_the_order_of_groups_and_of_batch_sizes_but_for_many_rows_beside_few(task_rows, aux_rows, order):
    ratio, excess = _applied_ratio(task_rows=task_rows, aux_rows=aux_rows, order=order)
    assert_close(ratio * excess, 0.5, rtol=1e-3, atol=0)
    assert excess <= aux_rows**0.5
    assert excess == 1 or task_rows < 256


@pytest.mark.parametrize("dim", [6, 600])
def test_the_ratio_of_the_pull_is_free_of_the_width_of_the_features(dim):
    assert_close(_applied_ratio(dim=dim), (0.5, 1.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("every", range(1, 7))
def test_the_mean_pull_is_that_of_every_step_where_the_strength_grows_as_acting_becomes_rarer(every):
    ratio, _ = _applied_ratio(every=every, iterations=1 + 2 * every)  # the first acting iteration knows no task gradient yet
    assert_close(ratio / every, 0.5, rtol=1e-3, atol=0)
