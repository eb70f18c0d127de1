"""The closed loop of the strength: it grows while groups stay apart, and not where it would harm."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_loop import equal_states, small_network, small_sampler, state_of, train
from torch.testing import assert_close

from wdpurify import BalancedStrength, FixedStrength, GroupSampler, PurifyRegularizer
from wdpurify.exceptions import GroupsApartWarning
from wdpurify.pull.gain import Gain

ONE = torch.tensor(1.0)


def _after(separations, *, most=3.0, fade=0.2):
    gain = Gain()
    for separation in separations:
        gain.record(torch.tensor(separation), fade=fade, most=most)
    return gain


def test_it_grows_while_groups_are_apart_and_falls_back_once_they_are_together():
    grown = _after([0.9] * 20)
    assert_close(grown.value, torch.tensor(math.exp(0.4)))
    assert _after([0.9] * 500).value == 3.0
    assert _after([0.9] * 20 + [0.05] * 10).value < grown.value
    assert _after([0.9] * 20 + [0.0] * 500).value == 1.0


def test_it_stays_where_groups_are_half_of_the_fade_apart_and_moves_in_proportion_around_it():
    grown = _after([0.9] * 20)
    assert_close(_after([0.9] * 20 + [0.1]).value, grown.value)
    assert_close(_after([0.9] * 20 + [0.15]).value, grown.value * math.exp(0.01))
    assert_close(_after([0.9] * 20 + [0.0]).value, grown.value * math.exp(-0.02))
    assert_close(_after([0.9] * 20 + [-5.0]).value, grown.value * math.exp(-0.02))


def test_it_is_at_its_limit_once_it_has_its_largest_value_and_never_without_one():
    assert not _after([0.9] * 20).at_limit
    assert _after([0.9] * 500).at_limit
    assert not _after([0.9] * 5, most=1.0).at_limit
    assert _after([0.9] * 5, fade=0.0).value == 1.0


@given(st.lists(st.floats(-2.0, 5.0), max_size=60), st.floats(1.0, 8.0, width=32))
def test_it_stays_between_one_and_its_largest_value(separations, most):
    gain = _after(separations, most=most)
    assert 1.0 <= gain.value <= most
    for kept, ratio in ((0.0, 1.0), (1.0, 0.1), (0.7, 1.2), (1.0, 40.0), (1.0, math.nan), (1.0, math.inf)):
        assert 1.0 <= gain.apply(torch.tensor(kept), torch.tensor(ratio)) <= gain.value


def test_signs_of_harm_take_it_back_and_what_is_not_known_gives_none():
    gain = _after([0.9] * 500)
    assert gain.apply(ONE, ONE) == 3.0
    assert gain.apply(0.85 * ONE, ONE) < 2.1
    assert gain.apply(0.2 * ONE, ONE) < 1.01
    assert gain.apply(ONE, 1.25 * ONE) == 2.0
    assert gain.apply(ONE, 1.5 * ONE) == 1.0
    assert gain.apply(ONE, torch.nan * ONE) == 1.0


@pytest.mark.parametrize("strength", [BalancedStrength(most=1.0), FixedStrength(), BalancedStrength(fade=0.0)])
def test_a_strength_that_is_to_stay_has_none(strength):
    network = small_network(norm=False)
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, strength=strength)
    train(network, purify, 20)
    assert purify.metrics().gain == 1.0


def _purified(network, groups):
    images = torch.rand((240, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    images += (torch.arange(240) % 3)[:, None, None, None]
    return PurifyRegularizer(network.features, GroupSampler(images, groups, batch_size=24), feature_dim=6)


def _gain(purify):
    return purify._loop._controller.gain.value.item()


def _trained(groups, steps=60):
    network = small_network(norm=False)
    purify = _purified(network, groups)
    train(network, purify, steps, lr=1e-4)
    return _gain(purify)


def test_groups_that_stay_apart_are_pulled_more_and_labels_that_say_nothing_are_not():
    apart = _trained([row % 3 for row in range(240)])
    shuffled = _trained(torch.randint(3, (240,), generator=torch.Generator().manual_seed(5)).tolist())
    assert apart == 1.5
    assert shuffled < 1.3


def test_the_gain_is_saved_and_goes_on():
    groups = [row % 3 for row in range(240)]
    network = small_network(norm=False)
    purify = _purified(network, groups)
    train(network, purify, 40, lr=1e-3)
    assert _gain(purify) > 1.2
    state = copy.deepcopy(purify.state_dict())
    twin = copy.deepcopy(network)
    resumed = _purified(twin, groups)
    resumed.load_state_dict(state)
    train(network, purify, 12, start=40)
    train(twin, resumed, 12, start=40)
    assert equal_states(state_of(network), state_of(twin))
    assert _gain(resumed) == _gain(purify)


def test_a_largest_value_below_one_is_refused():
    with pytest.raises(ValueError, match="`most` must be at least 1"):
        BalancedStrength(most=0.5)


def _fine_tuned(lr, steps=260):
    """A network whose features show the group from the start, trained in small steps."""
    network = small_network(norm=False)
    purify = _purified(network, [row % 3 for row in range(240)])
    train(network, purify, steps, lr=lr)
    return purify


def test_groups_that_stay_apart_under_the_largest_pull_are_named_once():
    with pytest.warns(GroupsApartWarning, match=r"purify\.erase\(loader\)") as caught:
        _fine_tuned(1e-6)
    assert len(caught) == 1


@pytest.mark.filterwarnings("error")
def test_groups_that_come_together_are_no_reason_for_a_warning():
    assert _fine_tuned(0.05).metrics().separation < 0.5
