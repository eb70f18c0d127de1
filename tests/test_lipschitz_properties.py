"""Lipschitz clipping and bounds, for any weights, inputs and limits."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.testing import assert_close

from wdpurify import Critic, GradientPenalty, SpectralClipping, WeightClipping
from wdpurify.lipschitz import clip_spectral_norm_, clip_weights_, lipschitz_bound, spectral_norm_bound

#: Numbers that float32 holds exactly, so that a bound is the number that was asked for.
finite = st.floats(-1024, 1024, width=32, allow_subnormal=False)
bounds = st.sampled_from([2.0**-10, 2.0**-3, 0.5, 1.0, 3.0])
widths = st.lists(st.integers(1, 6), min_size=2, max_size=4)


@st.composite
def networks(draw):
    """A fully connected network of any weights, and two batches of inputs."""
    sizes = draw(widths)
    activation = draw(st.sampled_from([nn.ReLU, nn.Tanh, nn.LeakyReLU, nn.Softplus]))
    layers = []
    for width_in, width_out in itertools.pairwise(sizes):
        layer = nn.Linear(width_in, width_out)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(draw(arrays(np.float32, (width_out, width_in), elements=finite))))
            layer.bias.copy_(torch.from_numpy(draw(arrays(np.float32, (width_out,), elements=finite))))
        layers += [layer, activation()]
    points = torch.from_numpy(draw(arrays(np.float32, (2, 3, sizes[0]), elements=finite)))
    return nn.Sequential(*layers[:-1]), points[0], points[1]


def _reference_norm(weight):
    """Spectral norm by NumPy's singular values in float64."""
    return float(np.linalg.svd(weight.detach().numpy().astype(np.float64), compute_uv=False)[0])


def _reference_forward(network, points):
    """The network in float64 by NumPy, so that rounding cannot hide a violation."""
    values = points.numpy().astype(np.float64)
    for layer in network:
        if isinstance(layer, nn.Linear):
            values = values @ layer.weight.detach().numpy().astype(np.float64).T + layer.bias.detach().numpy()
        else:
            values = layer(torch.from_numpy(values)).numpy()
    return values


def _weights(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


@given(networks(), bounds)
def test_after_clipping_no_weight_exceeds_the_bound(case, bound):
    network, _, _ = case
    clip_weights_(network, bound)
    assert max(weight.abs().max().item() for weight in _weights(network)) <= bound


@given(networks(), bounds)
def test_clipping_weights_twice_is_clipping_once(case, bound):
    network, _, _ = case
    clip_weights_(network, bound)
    once = _weights(network)
    clip_weights_(network, bound)
    assert all(torch.equal(first, second) for first, second in zip(once, _weights(network), strict=True))


@given(networks(), bounds)
def test_clipping_leaves_weights_within_the_bound_alone(case, bound):
    network, _, _ = case
    before = _weights(network)
    clip_weights_(network, bound)
    for old, new in zip(before, _weights(network), strict=True):
        inside = old.abs() <= bound
        assert torch.equal(old[inside], new[inside])


@given(networks(), bounds, st.sampled_from(["none", "weights", "spectral"]))
def test_no_pair_of_inputs_beats_the_certified_bound(case, bound, clipping):
    network, first, second = case
    if clipping == "weights":
        clip_weights_(network, bound)
    elif clipping == "spectral":
        clip_spectral_norm_(network, bound)
    constant = lipschitz_bound(network)
    moved = np.linalg.norm(_reference_forward(network, first) - _reference_forward(network, second), axis=1)
    distance = np.linalg.norm(first.double().numpy() - second.double().numpy(), axis=1)
    assert (moved <= constant * distance * (1 + 1e-9) + 1e-6).all()


@given(networks())
def test_bound_is_the_product_of_reference_norms(case):
    network, _, _ = case
    expected = math.prod(_reference_norm(layer.weight) for layer in network if isinstance(layer, nn.Linear))
    assert_close(lipschitz_bound(network), expected, rtol=1e-9, atol=1e-12)


@given(arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=finite), st.integers(1, 8))
def test_gram_bound_is_never_below_the_norm_and_close_to_it(weight, iterations):
    weight = torch.from_numpy(weight)
    exact, bound = _reference_norm(weight), spectral_norm_bound(weight, iterations=iterations).item()
    assert bound >= exact
    assert bound <= exact * min(weight.shape) ** (2.0 ** -(iterations + 1)) * (1 + 1e-3) + 1e-6


@pytest.mark.parametrize("size", [1e-45, 1e-40, 2.3306e-23, 1e-10, 1e10, 1e25, 1e37])
@pytest.mark.parametrize("iterations", [1, 6])
def test_gram_bound_holds_for_weights_whose_squares_are_no_float(size, iterations):
    weight = torch.full((2, 2), size)
    exact, bound = _reference_norm(weight), spectral_norm_bound(weight, iterations=iterations).item()
    assert exact <= bound <= max(exact * (1 + 1e-3), 1e-37)


def test_by_default_a_norm_takes_six_squarings_and_a_layer_keeps_a_norm_of_one():
    weight = 3.0 * torch.eye(4)
    assert spectral_norm_bound(weight) == spectral_norm_bound(weight, iterations=6) != spectral_norm_bound(weight, iterations=7)
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(weight)
    clip_spectral_norm_(layer)
    assert 0.95 < _reference_norm(layer.weight) <= 1.0


def test_a_layer_without_weights_has_norm_zero():
    assert spectral_norm_bound(torch.zeros(0, 3)) == 0


@given(networks(), bounds)
def test_after_spectral_clipping_no_layer_exceeds_the_bound_and_twice_is_once(case, bound):
    network, _, _ = case
    clip_spectral_norm_(network, bound)
    once = _weights(network)
    assert all(_reference_norm(layer.weight) <= bound * (1 + 1e-5) for layer in network if isinstance(layer, nn.Linear))
    clip_spectral_norm_(network, bound)
    for first, second in zip(once, _weights(network), strict=True):
        assert_close(first, second, rtol=1e-4, atol=1e-7)


def test_spectral_clipping_leaves_a_layer_within_the_bound_alone():
    layer = nn.Linear(4, 3)
    before = layer.weight.detach().clone()
    clip_spectral_norm_(layer, 100.0)
    assert torch.equal(layer.weight, before)
    clip_spectral_norm_(layer, 0.125)
    assert not torch.equal(layer.weight, before)


def test_the_papers_clipping_is_no_one_lipschitz_constraint():
    critic = Critic(128, 1, hidden=(512, 256, 10))
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.fill_(1.0)
    WeightClipping(0.1).project_(critic)
    assert_close(lipschitz_bound(critic), 1482.6, rtol=1e-3, atol=0)
    SpectralClipping(1.0).project_(critic)
    assert lipschitz_bound(critic) <= 1.0


@pytest.mark.parametrize("bound", [0.25, 0.5, 2.0])
def test_constraints_hold_the_bound_they_were_given(bound):
    critic = Critic(4, 2)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.fill_(3.0)
    WeightClipping(bound).project_(critic)
    assert {parameter.abs().max().item() for parameter in critic.parameters()} == {bound}
    SpectralClipping(bound).project_(critic)
    assert all(
        _reference_norm(layer.weight) == pytest.approx(bound, rel=1e-2) for layer in critic if isinstance(layer, nn.Linear)
    )
    assert GradientPenalty(bound).weight == bound


def test_only_weights_at_the_bound_are_saturated_and_only_by_weight_clipping():
    critic = nn.Linear(3, 1)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[0.5, -0.5, 0.25]]))
        critic.bias.zero_()
    assert WeightClipping(0.5).saturation(critic) == 0.5
    for constraint in (SpectralClipping(0.5), GradientPenalty()):
        assert constraint.saturation(critic) == 0


def test_a_projection_adds_nothing_to_the_critics_loss():
    rows = torch.randn(4, 3), torch.zeros(4).long(), torch.ones(4).bool()
    assert WeightClipping().penalty(Critic(3, 1), *rows, generator=None) == 0


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_bounds_out_of_range_are_refused(bound):
    for clip in (clip_weights_, clip_spectral_norm_):
        with pytest.raises(ValueError, match="`bound` must be a positive finite number"):
            clip(nn.Linear(1, 1), bound)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_constraints_refuse_values_that_do_not_constrain(value):
    for make in (WeightClipping, SpectralClipping, GradientPenalty):
        with pytest.raises(ValueError, match="must be positive"):
            make(value)


def test_layers_that_cannot_be_bounded_are_named():
    with pytest.raises(TypeError, match="got GELU"):
        lipschitz_bound(nn.Sequential(nn.Linear(2, 2), nn.GELU()))


def test_a_container_with_a_forward_of_its_own_is_not_certified():
    class Steeper(nn.Sequential):
        def forward(self, features):
            return 10.0 * super().forward(features)

    with pytest.raises(TypeError, match="got Steeper"):
        lipschitz_bound(Steeper(nn.Identity()))


def test_gram_bound_holds_under_autocast_too():
    weight = torch.randn(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert spectral_norm_bound(weight).item() >= _reference_norm(weight)


def test_spectral_norm_bound_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match=r"`weight` must have shape \(out, in\), got \(3,\)"):
        spectral_norm_bound(torch.ones(3))
    with pytest.raises(ValueError, match="`iterations` must be at least 1"):
        spectral_norm_bound(torch.ones(3, 3), iterations=0)
