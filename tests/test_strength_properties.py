"""The balanced strength: the ratio of the gradients at the features is the strength, whatever the scales."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from wdpurify import BalancedStrength, Critic, FixedStrength, GroupSampler, OneSided, PurifyRegularizer
from wdpurify.pull.strength import as_strength

scales = st.sampled_from([2.0**-14, 2.0**-3, 1.0, 7.0, 2.0**16])
strengths = st.sampled_from([0.125, 0.3, 1.0, 4.0])


def _gradient_norms(strength, scale, divisor, critic_scale=1.0, objective=None, task_scale=1.0):
    """Norms of the applied purify gradient and of the task gradient at the features, per unit of the loss's own scale."""
    extract = nn.Linear(4, 3)
    critic = Critic(3, 2, hidden=(8,), activation=nn.Tanh)
    with torch.no_grad():
        critic[-1].weight.mul_(critic_scale)
    sampler = GroupSampler(torch.randn(40, 4) + torch.arange(40)[:, None] % 2, [row % 2 for row in range(40)], batch_size=20)
    purify = PurifyRegularizer(
        extract, sampler, feature_dim=3, objective=objective or OneSided(), critic=critic, strength=strength, every=1
    )
    images, weights = torch.randn(6, 4), torch.randn(3)
    norms = []
    for _ in range(5):  # the first pass only shows the task gradient; later ones must tell it from the purify gradient
        purify.critic_step()
        features = extract(images)
        term = purify.loss(features)
        task = task_scale * (features * weights).sum()
        gradients = []
        for loss in (task + term, task):
            (gradient,) = torch.autograd.grad(loss * scale / divisor, features, retain_graph=True)
            gradients.append(gradient * divisor / scale)
        norms = [(gradients[0] - gradients[1]).norm().item(), gradients[1].norm().item()]
        purify.optimizer_stepped()
    return norms


@given(strengths, scales, st.integers(1, 8))
def test_ratio_at_the_features_is_the_strength_for_any_loss_scale_and_divisor(strength, scale, divisor):
    purify, task = _gradient_norms(BalancedStrength(strength, fade=0), scale, divisor)
    assert_close(purify / task, strength, rtol=1e-3, atol=0)


@given(strengths, st.sampled_from([2.0**-10, 1.0, 1000.0]), st.sampled_from([2.0**-10, 1.0, 1000.0]))
def test_ratio_does_not_depend_on_the_scale_of_critic_or_task(strength, critic_scale, task_scale):
    purify, task = _gradient_norms(BalancedStrength(strength, fade=0), 1.0, 1, critic_scale, task_scale=task_scale)
    assert_close(purify / task, strength, rtol=1e-3, atol=0)


def test_a_fixed_strength_does_depend_on_the_critics_scale():
    small, _ = _gradient_norms(FixedStrength(1.0), 1.0, 1, 1.0)
    large, _ = _gradient_norms(FixedStrength(1.0), 1.0, 1, 100.0)
    assert large > 10 * small


@given(st.floats(-2, 2, width=32), strengths)
def test_the_pull_fades_linearly_below_the_named_separation(separation, value):
    strength = BalancedStrength(value, fade=0.5)
    strength.record(torch.tensor(5.0), torch.tensor(1.0))
    factor = strength.factor(torch.tensor(2.0), torch.tensor(separation), torch.tensor(1.0))
    assert_close(factor.item(), value * 5.0 / 2.0 * min(1.0, max(0.0, separation / 0.5)), rtol=1e-5, atol=1e-6)


@given(st.floats(0, 1, width=32), st.floats(0.0, 1.0, width=32))
def test_the_pull_falls_linearly_to_nothing_at_half_of_the_spread_that_features_are_to_keep(kept, keep):
    strength = BalancedStrength(2.0, fade=0.0, keep=keep)
    strength.record(torch.tensor(5.0), torch.tensor(1.0))
    factor = strength.factor(torch.tensor(2.0), torch.tensor(1.0), torch.tensor(kept))
    left = 1.0 if keep == 0 else min(1.0, max(0.0, 2.0 * kept / keep - 1.0))
    assert_close(factor.item(), 2.0 * 5.0 / 2.0 * left, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep", [-0.1, 1.1, float("nan")])
def test_a_share_to_keep_that_is_none_is_refused(keep):
    with pytest.raises(ValueError, match="`keep` must be"):
        BalancedStrength(keep=keep)


def test_nothing_is_applied_before_a_task_gradient_was_seen_and_none_by_a_dead_critic():
    strength = BalancedStrength(1.0)
    apart = torch.tensor(1.0)
    assert strength.factor(torch.tensor(3.0), apart, torch.tensor(1.0)) == 0
    strength.record(torch.tensor(1.0), torch.tensor(1.0))
    assert strength.factor(torch.tensor(3.0), apart, torch.tensor(1.0)) > 0
    assert strength.factor(torch.tensor(0.0), apart, torch.tensor(1.0)) == 0


def test_without_a_fade_groups_that_are_together_are_pulled_in_full():
    strength = BalancedStrength(2.0, fade=0.0)
    strength.record(torch.tensor(5.0), torch.tensor(1.0))
    for separation in (0.0, -1.0):
        assert strength.factor(torch.tensor(0.5), torch.tensor(separation), torch.tensor(1.0)) == 20.0


def test_by_default_the_pull_is_half_of_the_task_gradient_and_may_grow_to_three_quarters_of_it():
    strength = BalancedStrength()
    assert (strength.value, strength.most) == (0.5, 1.5)
    assert BalancedStrength(most=1.0).most == 1.0
    assert FixedStrength().value == 1.0


def test_the_memory_is_saved():
    strength, loaded = BalancedStrength(), BalancedStrength()
    strength.record(torch.tensor(3.0), torch.tensor(2.0))
    loaded.load_state_dict(strength.state_dict())
    assert loaded.task_norm == strength.task_norm == 3.0


def test_what_is_no_strength_is_named():
    with pytest.raises(TypeError, match="`strength` must have `factor`, got str"):
        as_strength("strong")


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_step_with_an_infinite_gradient_teaches_nothing(bad):
    strength = BalancedStrength(1.0)
    strength.record(torch.tensor(2.0), torch.tensor(1.0))
    strength.record(torch.tensor(bad), torch.tensor(1.0))
    assert strength.task_norm == 2.0
    strength.record(torch.tensor(0.0), torch.tensor(1.0))
    assert_close(strength.task_norm, torch.tensor(1.0))


def _memory_after(pairs):
    strength = BalancedStrength(1.0)
    for norm, weight in pairs:
        strength.record(torch.tensor(norm), torch.tensor(weight))
    return strength.task_norm.item()


@given(st.lists(st.tuples(st.floats(20, 100, width=32), st.floats(2**-10, 4, width=32)), min_size=1, max_size=40))
def test_the_memory_is_the_weighted_mean_of_all_iterations(pairs):
    expected = sum(norm * weight for norm, weight in pairs) / sum(weight for _, weight in pairs)
    assert_close(_memory_after(pairs), expected, rtol=1e-3, atol=1e-4)


def test_an_upset_task_is_not_answered_with_a_stronger_pull_at_once():
    assert _memory_after([(1.0, 1.0)] * 95 + [(20.0, 1.0)] * 5) < 2.0


def test_zeros_count_in_the_mean_and_are_no_measure_of_outliers():
    assert _memory_after([(0.0, 1.0)] * 60 + [(1.0, 1.0)] * 40) == pytest.approx(0.4)
    assert _memory_after([(0.0, 1.0)] * 3) == 0.0


@pytest.mark.parametrize("place", [0, 20])
@pytest.mark.parametrize("outlier", [1e6, 1e30])
def test_one_outlier_at_any_step_is_soon_forgotten(place, outlier):
    norms = [1.0] * 40
    norms[place] = outlier
    assert _memory_after([(norm, 1.0) for norm in norms]) < 1.2


def test_a_learning_rate_finder_leaves_the_memory_within_a_small_factor():
    finder = [1.0] * 70 + [10.0**power for power in range(1, 31)]
    assert _memory_after([(norm, 1.0) for norm in finder]) < 2.5
    assert _memory_after([(norm, 1.0) for norm in finder + [1.0] * 300]) < 1.4


def test_in_a_long_run_the_memory_is_a_window():
    assert _memory_after([(1.0, 1.0)] * 3000 + [(9.0, 1.0)] * 3000) > 8.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BalancedStrength(-1.0), "`value` must be a finite number of at least 0, got -1.0"),
        (lambda: BalancedStrength(math.nan), "`value` must be a finite number"),
        (lambda: BalancedStrength(1.0, fade=-0.5), "`fade` must be"),
        (lambda: BalancedStrength(1.0, most=-1.0), "`most` must be a finite number"),
        (lambda: FixedStrength(math.inf), "`value` must be"),
        (lambda: as_strength(-1.0), "`strength` must be"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
