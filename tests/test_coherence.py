"""How much of a gradient at the features is left below them, and that a pull which outweighs the task there is weakened."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_loop import equal_states
from torch import nn
from torch.testing import assert_close

from wdpurify import BalancedStrength, FixedStrength, GroupSampler, PurifyRegularizer
from wdpurify.pull.coherence import (
    TOLERANCE,
    WIDTH,
    Coherence,
    coherence,
    count_of_sums,
    project,
    projections,
    sums_over_rows,
)


def _drawn(seed, rows, dim):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((rows, dim), generator=generator), torch.randn((rows, dim), generator=generator)


def _sums(features, gradient, in_play=None):
    of_features, of_gradients = projections(features.shape[1], features.device) or (None, None)
    return sums_over_rows(project(features, of_features), gradient, of_gradients, in_play)


def _found(features, gradient, in_play=None):
    return coherence(_sums(features, gradient, in_play))


@given(st.integers(0, 999), st.integers(2, 40), st.integers(1, WIDTH))
def test_it_is_the_norm_of_a_linear_layers_gradient_over_that_at_its_output(seed, rows, dim):
    features, gradient = _drawn(seed, rows, dim)
    units = (features - features.mean(0)) / (features - features.mean(0)).square().sum(1).mean().sqrt()
    layer = nn.Linear(dim, dim, bias=False)
    (layer(units) * gradient).sum().backward()
    assert_close(_found(features, gradient), layer.weight.grad.norm() / gradient.norm(), rtol=1e-3, atol=1e-4)


@given(st.integers(0, 999), st.sampled_from([3, WIDTH, 200]), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_scale_place_and_order_play_no_part(seed, dim, scale, of_gradient):
    features, gradient = _drawn(seed, 12, dim)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    other = _found((scale * (features + 2.0))[order], (of_gradient * gradient)[order])
    assert_close(other, _found(features, gradient), rtol=1e-3, atol=1e-4)


@given(st.integers(0, 999), st.integers(1, 11), st.sampled_from([3, 200]))
def test_parts_add_up_to_the_whole_and_rows_out_of_play_say_nothing(seed, first, dim):
    features, gradient = _drawn(seed, 12, dim)
    parts = _sums(features[:first], gradient[:first]) + _sums(features[first:], gradient[first:])
    assert len(parts) == count_of_sums(dim)
    assert_close(coherence(parts), _found(features, gradient), rtol=1e-3, atol=1e-4)
    in_play = torch.arange(12) < max(2, first)
    assert_close(_found(features, gradient, in_play), _found(features[in_play], gradient[in_play]), rtol=1e-3, atol=1e-4)


def test_it_is_high_where_rows_ask_for_the_same_and_low_where_like_rows_ask_for_opposite_things():
    side = torch.tensor([1.0, -1.0]).repeat(32)[:, None]
    features = side * torch.randn((1, 256), generator=torch.Generator().manual_seed(0))
    direction = torch.randn((1, 256), generator=torch.Generator().manual_seed(1))
    together = _found(features, side * direction)
    assert_close(together, torch.tensor(8.0), rtol=0.3, atol=0)  # the root of 64 rows
    asked = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(16)[:, None]
    assert _found(features, asked * direction) < 0.01


def test_it_is_not_known_without_a_spread_or_a_gradient():
    features, gradient = _drawn(0, 8, 5)
    known = Coherence()
    task = torch.stack([_sums(features, 0.0 * gradient), _sums(0.0 * features, gradient)])
    known.record(task, features, 0.0 * gradient, torch.ones(8, dtype=torch.bool))
    assert known.excess == 1
    assert not known.ratio.isfinite()
    assert known.means.tolist() == [0, 0]


def test_it_averages_every_iteration_and_each_pull():
    rows, in_play = [_drawn(seed, 8, 5) for seed in range(4)], torch.ones(8, dtype=torch.bool)
    task = torch.stack([_sums(*drawn) for drawn in rows[:3]])
    known = Coherence()
    known.record(task, *rows[3], in_play)
    assert_close(known.means, torch.stack([coherence(task).mean(), _found(*rows[3])]))


def test_only_what_is_beyond_the_tolerance_counts():
    known = Coherence()
    for found, excess in ((0.5, 1.0), (TOLERANCE - 0.01, 1.0), (2.0, 2.0 / TOLERANCE)):
        known.load_state_dict(known.state_dict() | {"task": torch.tensor(1.0), "pull": torch.tensor(found)})
        assert known.excess == excess


def _trained(contradicting, *, parts=1, dim=16, steps=20, compiled=False, strength=None):
    """A task that asks opposite things of like rows, or is plain to see, beside groups that are far apart."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    groups = [row % 2 for row in range(64)]
    rows = torch.randn((64, 4), generator=generator)
    classes = torch.randint(2, (64,), generator=generator) if contradicting else (rows[:, 0] > 0).long()
    rows = rows * (0.01 if contradicting else 1.0) + 2.0 * torch.tensor(groups)[:, None]
    if not contradicting:
        rows[:, 0] += 8.0 * classes
    model = nn.Sequential(nn.Linear(4, dim), nn.ReLU(), nn.Linear(dim, 2))
    sampler = GroupSampler(rows, groups, balance=classes.tolist(), batch_size=16)
    purify = PurifyRegularizer.for_model(model, sampler, strength=strength or BalancedStrength(0.5, fade=0.0))
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    network = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    for _ in range(steps):
        chosen = torch.randperm(64, generator=generator)[:32]
        for part in chosen.chunk(parts):
            (criterion(network(rows[part]), classes[part]) / parts).backward()
        optimizer.step()
        optimizer.zero_grad()
    return purify


def test_a_pull_is_weakened_beside_a_task_whose_rows_cancel_and_not_beside_one_that_is_plain():
    weak, full = _trained(contradicting=True).metrics(), _trained(contradicting=False).metrics()
    assert weak.coherence_excess > 1.5
    assert_close(weak.gradient_ratio * weak.coherence_excess, 0.5, rtol=0.3, atol=0)
    assert full.coherence_excess == 1
    assert full.gradient_ratio > 0.3


def test_a_fixed_strength_spends_nothing_on_it():
    purify = _trained(contradicting=True, strength=FixedStrength(0.5))
    assert purify.metrics().coherence_excess == 1
    assert purify.metrics().gradient_ratio > 0
    assert purify._loop._controller.coherence.means.tolist() == [0, 0]


@pytest.mark.parametrize("dim", [16, 100])
def test_micro_batches_are_as_coherent_as_the_batch_that_they_make(dim):
    whole, parts = (_trained(contradicting=True, parts=count, dim=dim) for count in (1, 4))
    assert whole.metrics().coherence_excess > 1
    assert_close(parts.metrics().coherence_excess, whole.metrics().coherence_excess, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dim", [16, 100])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_compiled_model_is_measured_like_one_that_is_not(dim, parts):
    torch._dynamo.reset()
    eager, compiled = (_trained(contradicting=True, dim=dim, parts=parts, compiled=how).metrics() for how in (False, True))
    assert eager.coherence_excess > 1
    assert_close(compiled.coherence_excess, eager.coherence_excess, rtol=1e-3, atol=0)


def test_what_is_known_is_saved():
    purify = _trained(contradicting=True)
    other = _trained(contradicting=True, steps=1)
    other.load_state_dict(purify.state_dict())
    known, loaded = (each._loop._controller.coherence for each in (purify, other))
    assert equal_states(loaded.state_dict(), known.state_dict())
    assert loaded.excess == known.excess > 1
