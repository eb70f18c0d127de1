"""The pure formulas: signs, groups that are missing, and shapes."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from wdpurify.functional import (
    feature_spread,
    gap_weights,
    gradient_penalty,
    group_gap,
    norm_of_all_passes,
    one_sided_loss,
    pair_with_population,
    task_norms,
)


def _reference_gap(scores, groups, population):
    """The definition, row by row in float64 on plain numbers."""
    whole = [row for row, is_in in zip(scores.tolist(), population.tolist(), strict=True) if is_in]
    gaps = []
    for output in range(scores.shape[1]):
        members = [row[output] for row, group in zip(scores.tolist(), groups.tolist(), strict=True) if group == output]
        if members and whole:
            gaps.append(sum(members) / len(members) - sum(row[output] for row in whole) / len(whole))
    return sum(gaps) / len(gaps) if gaps else 0.0


@pytest.mark.parametrize(
    ("groups", "population"),
    [
        ([0, 0, 1, 2, 2, 2], [True] * 6),  # all groups at once
        ([0, 0, 0, -1, -1, -1], [False] * 3 + [True] * 3),  # the paper's A and B
        ([2, 2, 2, 2, 2, 2], [True] * 6),  # one value in the batch
        ([-1] * 6, [True] * 6),  # no group at all
        ([0, 1, 2, 0, 1, 2], [False] * 6),  # no population
        ([0, 1, 2, 0, 1, 2], [True] + [False] * 5),  # a population of one row
    ],
)
def test_gap_is_the_definition(groups, population):
    scores = torch.randn(6, 3)
    groups, population = torch.tensor(groups), torch.tensor(population)
    assert_close(group_gap(scores, groups, population).item(), _reference_gap(scores, groups, population))


def test_gap_of_hundreds_of_values_with_most_of_them_missing_is_finite():
    scores, groups = torch.randn(8, 500), torch.arange(8) * 50
    population = torch.ones(8, dtype=torch.bool)
    assert_close(group_gap(scores, groups, population).item(), _reference_gap(scores, groups, population))


def test_gap_is_high_where_the_group_scores_high():
    scores = torch.tensor([[5.0], [5.0], [1.0], [1.0]])
    groups, population = torch.tensor([0, 0, -1, -1]), torch.tensor([False, False, True, True])
    assert group_gap(scores, groups, population) == 4.0
    assert group_gap(-scores, groups, population) == -4.0


def test_gap_weights_of_each_present_group_sum_to_zero_and_absent_ones_are_zero():
    weights = gap_weights(torch.tensor([0, 0, 2]), torch.ones(3, dtype=torch.bool), 3)
    assert_close(weights.sum(0), torch.zeros(3))
    assert weights[:, 1].abs().max() == 0
    assert weights[:, 0].abs().max() > 0


def test_the_spread_is_that_of_the_rows_in_play():
    features = torch.randn(6, 3)
    for rows in (4, 1):
        chosen = features[:rows]
        expected = (chosen - chosen.mean(0)).square().mean().sqrt()
        assert_close(feature_spread(features, torch.arange(6) < rows), expected)
    assert feature_spread(features, torch.zeros(6, dtype=torch.bool)) == 0


def test_one_sided_loss_has_two_named_directions():
    scores = torch.tensor([[1.0, 3.0]])
    assert one_sided_loss(scores) == one_sided_loss(scores, toward="population") == 2.0
    assert one_sided_loss(scores, toward="group") == -2.0
    with pytest.raises(ValueError, match=r"`toward` must be .* got 'up'"):
        one_sided_loss(scores, toward="up")


@pytest.mark.parametrize("dim", [1, 3, 7])
def test_penalty_takes_the_norm_over_features_not_over_the_batch(dim):
    # A linear critic of weight w has slope ||w|| at every row, whatever the batch size.
    critic = nn.Linear(dim, 1)
    slope = critic.weight.detach().double().norm().item()
    for batch in (1, 2, 50):
        penalty = gradient_penalty(critic, torch.randn(batch, dim), torch.zeros(batch, dtype=torch.long))
        assert_close(penalty.item(), (slope - 1.0) ** 2, rtol=1e-5, atol=1e-6)


def test_penalty_checks_the_output_of_each_rows_own_group():
    critic = nn.Linear(4, 2, bias=False)
    slopes = critic.weight.detach().norm(dim=1)
    groups = torch.tensor([0, 1, 1, -1])
    expected = ((slopes[[0, 1, 1]] - 1) ** 2).mean()
    assert_close(gradient_penalty(critic, torch.randn(4, 4), groups).detach(), expected)


def test_penalty_of_a_dead_critic_has_finite_gradient():
    critic = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    nn.init.constant_(critic[0].bias, -100.0)
    penalty = gradient_penalty(critic, torch.randn(5, 3), torch.zeros(5, dtype=torch.long))
    assert_close(penalty.item(), 1.0, rtol=1e-4, atol=0)
    gradients = torch.autograd.grad(penalty, list(critic.parameters()), allow_unused=True)
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def test_penalty_target_is_used():
    critic = nn.Linear(2, 1)
    slope = critic.weight.norm().item()
    penalty = gradient_penalty(critic, torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), target=slope)
    assert_close(penalty.item(), 0.0, rtol=0, atol=1e-9)


def test_partners_come_from_the_population_alone():
    features = torch.tensor([[0.0], [0.0], [7.0], [8.0]])
    groups, population = torch.tensor([0, 0, -1, -1]), torch.tensor([False, False, True, True])
    points = pair_with_population(features, groups, population, mix=torch.zeros(4), order=torch.rand(4))
    assert set(points.flatten().tolist()) == {7.0, 8.0}
    own = pair_with_population(features, groups, population, mix=torch.ones(4), order=torch.rand(4))
    assert_close(own, features)


def test_a_population_of_one_row_is_the_partner_of_all():
    features, groups = torch.tensor([[0.0], [1.0], [7.0]]), torch.tensor([0, 0, -1])
    points = pair_with_population(features, groups, torch.arange(3) == 2, mix=torch.zeros(3), order=torch.rand(3))
    assert points.flatten().tolist() == [7.0, 7.0, 7.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gap_weights(torch.zeros(3).long(), torch.ones(2).bool(), 1), r"`groups` and `population`.*\(3,\)"),
        (lambda: gap_weights(torch.zeros(3).long(), torch.ones(3).bool(), 0), "`n_groups` must be at least 1, got 0"),
        (lambda: group_gap(torch.zeros(3), torch.zeros(3).long(), torch.ones(3).bool()), r"`scores` must have shape"),
        (lambda: gradient_penalty(nn.Identity(), torch.zeros(3), torch.zeros(4).long()), r"`points` .*\(3,\) and \(4,\)"),
    ],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _reference_task_norms(norms, weights):
    """Rank by rank in float64: the joint gradient is the mean of the ranks', rows of different ranks are orthogonal."""
    joint, mean_weights = [], []
    for iteration in range(norms.shape[1]):
        squares = sum((float(norm) / len(norms)) ** 2 for norm in norms[:, iteration])
        weight = sum(float(each) for each in weights[:, iteration]) / len(weights)
        joint.append(math.sqrt(squares) / weight)
        mean_weights.append(weight)
    return torch.tensor(joint), torch.tensor(mean_weights)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_task_norms_are_those_of_the_mean_of_the_ranks(ranks):
    norms, weights = torch.rand(ranks, 4) + 0.1, torch.rand(ranks, 4) + 0.1
    for found, expected in zip(task_norms(norms, weights), _reference_task_norms(norms, weights), strict=True):
        assert_close(found, expected.float())


def test_an_iteration_that_was_not_recorded_gives_no_norm():
    norms, _ = task_norms(torch.tensor([[1.0, math.nan]]), torch.tensor([[1.0, math.nan]]))
    assert norms.isfinite().tolist() == [True, False]


def _reference_pull_of_passes(norms, ratio):
    """Length of the mean of orthogonal pulls, each with the ratio that its norm asks for."""
    factors = [ratio / (norm / math.sqrt(len(norms))) for norm in norms]
    return math.sqrt(sum((factor * norm / len(norms)) ** 2 for factor, norm in zip(factors, norms, strict=True)))


@pytest.mark.parametrize("passes", [1, 2, 4, 9])
def test_pulls_of_several_passes_come_out_as_strong_as_one(passes):
    norms = [1.0 + number for number in range(passes)]
    assert math.isclose(_reference_pull_of_passes(norms, 0.3), 0.3)
    for norm in norms:
        assert_close(norm_of_all_passes(torch.tensor(norm), passes), torch.tensor(norm / math.sqrt(passes)))
