"""What the audit measures with: leakage, association, weights and intervals, where the right value is known."""

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")
from audit_rows import small_net, striped_rows
from scipy import stats
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_score

from wdpurify._balance import cramers_v
from wdpurify.audit import leakage
from wdpurify.audit._association import associate, independence_weights
from wdpurify.audit._discriminant import _prepared, _scores
from wdpurify.audit._probe import balanced_weights, folds, linear_probe
from wdpurify.audit._transfer import crossed_interval


def test_leakage_is_high_where_the_label_is_and_at_chance_where_it_is_shuffled():
    images, _, tint = striped_rows(300, 7)
    there = leakage(small_net(), images, tint, permutations=30)
    shuffled = leakage(small_net(), images, tint[torch.randperm(300)], permutations=30)
    assert there.balanced_accuracy > 0.85
    assert there.p_value == pytest.approx(1 / 31)
    assert abs(shuffled.balanced_accuracy - 0.5) < 0.1
    assert shuffled.p_value > 0.05
    assert 0.5 < there.low < there.balanced_accuracy <= there.high <= 1
    assert "p = 0.032" in str(there)
    assert leakage(small_net(), images, tint, permutations=3, max_rows=50).rows == 50


def test_leakage_reads_the_layer_or_the_features_that_are_asked_for():
    images, _, tint = striped_rows(100, 7)
    net, options = small_net(), {"permutations": 3, "seed": 3}
    found = leakage(net, images, tint, **options)
    cut = net[:-2]
    assert leakage(net, images, tint, features=lambda model, x: model[:-2](x), **options) == found
    assert leakage(net, images, tint, layer="6", device="cpu", **options) == found
    assert leakage(None, cut.eval()(images).detach(), tint, **options) == found
    assert leakage(net, images, tint, layer="2", **options) != found
    with pytest.raises(ValueError, match="give one of them"):
        leakage(net, images, tint, layer="2", features=lambda model, x: model(x))


def test_p_values_of_labels_that_say_nothing_are_uniform():
    generator = torch.Generator().manual_seed(0)
    found = [
        leakage(
            None,
            torch.randn(40, 3, generator=generator),
            torch.randint(2, (40,), generator=generator),
            permutations=3,
            seed=seed,
        ).p_value
        for seed in range(24)
    ]
    counts = np.bincount((np.array(found) * 4).round().astype(int), minlength=5)[1:]
    assert stats.chisquare(counts).pvalue > 0.001
    assert counts.sum() == 24


@pytest.mark.parametrize("shape", [(60, 5), (40, 90)], ids=["more rows", "more dimensions"])
def test_the_shared_factorisation_gives_the_scores_of_each_labelling_by_itself(shape):
    generator = torch.Generator().manual_seed(0)
    rows, others = (torch.randn(*shape, generator=generator).double() for _ in range(2))
    labels = torch.stack([torch.randperm(shape[0], generator=generator) % 3 for _ in range(4)])
    rows[:, 0] += 2 * labels[0]
    learned, judged, factor, shrinkage = _prepared(rows, others)
    found = _scores(learned, judged, factor, shrinkage, nn.functional.one_hot(labels, 3).double())
    mean, spread = rows.mean(0), rows.std(0, unbiased=False)
    rows, others = (rows - mean) / spread, (others - mean) / spread
    for scores, own in zip(found, labels, strict=True):
        means = torch.stack([rows[own == value].mean(0) for value in range(3)])
        within = rows - means[own]
        covariance = (1 - shrinkage) * within.T @ within / len(rows) + shrinkage * torch.eye(shape[1])
        slopes = torch.linalg.solve(covariance, means.T)
        expected = others @ slopes - (means.T * slopes).sum(0) / 2
        torch.testing.assert_close(scores, expected)


def test_a_direction_of_hardly_any_variance_counts_as_little_as_for_a_logistic_regression():
    generator = torch.Generator().manual_seed(0)
    hair = torch.arange(400) % 2
    rows = torch.randn(400, 1, generator=generator) * torch.ones(400, 16)
    rows[:, ::2] += 0.003 * hair[:, None] + 0.001 * torch.randn(400, 8, generator=generator)
    regression = cross_val_score(linear_probe(), rows, hair, cv=folds(0), scoring="balanced_accuracy").mean()
    assert leakage(None, rows, hair, permutations=5).balanced_accuracy == pytest.approx(regression, abs=0.03)
    assert regression < 0.6


def test_collapsed_features_are_at_chance():
    assert leakage(None, torch.ones(40, 3), [0, 1] * 20, permutations=5).balanced_accuracy == 0.5


def test_known_tables_have_their_cramers_v():
    assert cramers_v(torch.tensor([[50, 0], [0, 50]])) == pytest.approx(1.0, abs=1e-6)
    assert cramers_v(torch.tensor([[25, 25], [25, 25]])) == 0
    assert cramers_v(torch.tensor([[5, 5]])) == 0
    found = associate(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1]), list("abc"), ["no", "yes"], known=True)
    assert found.determined
    assert found.empty_cells == ("a / yes", "b / no", "c / no")
    assert found.table["c"] == {"no": 0, "yes": 1}
    assert not associate(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), list("ab"), list("cd"), known=True).determined


def test_weights_make_label_and_task_independent_and_classes_alike():
    task, groups = torch.tensor([0] * 8 + [1] * 4), torch.tensor([0] * 6 + [1] * 2 + [0, 1, 1, 1])
    weights = independence_weights(task, groups)
    cells = torch.zeros(2, 2, dtype=torch.float64).index_put_((task, groups), weights, accumulate=True)
    torch.testing.assert_close(cells[0], cells[1])
    assert weights.mean() == pytest.approx(1.0)
    assert independence_weights(task, groups, largest=1.2).max() < weights.max()


def test_balanced_weights_give_balanced_accuracy():
    labels = torch.randint(3, (50,))
    guesses = torch.randint(3, (50,))
    expected = balanced_accuracy_score(labels, guesses)
    assert (balanced_weights(labels) * (labels == guesses)).mean() == pytest.approx(expected)


def test_the_interval_covers_the_true_gain_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        repeats, rows = torch.randn(4, 1, generator=generator), torch.randn(1, 60, generator=generator)
        gains = 0.5 + 0.1 * repeats + 0.5 * rows + 0.3 * torch.randn(4, 60, generator=generator)
        _, low, high = crossed_interval(gains.double())
        covered += low < 0.5 < high
    assert 0.92 < covered / 400 <= 1.0
    assert crossed_interval(torch.zeros(2, 5)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (None, torch.zeros(20, 3, 8, 8), [0, 1] * 10),
            ValueError,
            r"features of shape \(rows, dim\) without a `model`",
        ),
        ((None, torch.zeros(20, 3), [0, 1]), ValueError, "got 2 labels for 20 rows"),
        ((None, torch.zeros(20, 3), [0] * 20), ValueError, "all rows have the same value, 0"),
        ((None, [[1.0]], [0]), ValueError, "all rows have the same value"),
        ((None, ["a", "b"] * 10, [0, 1] * 10), TypeError, "`rows` must be floating point features .* got list"),
        ((None, torch.zeros(20, 3).long(), [0, 1] * 10), TypeError, "got torch.int64"),
        ((nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), torch.full((20, 1), torch.nan), [0, 1] * 10), ValueError, "not finite"),
    ],
)
def test_wrong_inputs_of_leakage_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        leakage(*arguments)
    with pytest.raises(ValueError, match="raise `max_rows`"):
        leakage(None, torch.randn(200, 2), [0] * 180 + [1] * 20, max_rows=20)
