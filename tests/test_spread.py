"""How much of their spread the features still have, and that a pull which is to keep it does."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from wdpurify import BalancedStrength, GroupSampler, PurifyRegularizer
from wdpurify.exceptions import FeatureScaleWarning
from wdpurify.functional import feature_spread
from wdpurify.pull.spread import Spread

EVERY = torch.ones(8, dtype=torch.bool)


def _rows(scale):
    return scale * torch.randn((8, 3), generator=torch.Generator().manual_seed(0))


def _record(spread, rows, in_play=EVERY):
    spread.record(feature_spread(rows, in_play), in_play)


@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_scale_and_place_of_the_features_play_no_part(scale, place):
    spread = Spread()
    for shrunk in (1.0, *[0.5] * 9):
        _record(spread, _rows(scale * shrunk).double().add(place).float())
    assert_close(spread.kept.item(), 0.5, rtol=0.02, atol=1e-4 * abs(place) / scale)


def test_rows_out_of_play_and_single_rows_say_nothing():
    spread = Spread()
    assert spread.kept == 1
    _record(spread, _rows(1.0))
    beside = torch.cat([_rows(1.0), torch.full((2, 3), 1e5)])
    _record(spread, beside, torch.arange(10) < 8)
    _record(spread, _rows(1.0), torch.arange(8) == 3)
    assert_close(spread.kept.item(), 1.0)


def test_two_rows_have_a_spread_and_one_has_none():
    spread = Spread()
    _record(spread, _rows(1.0), torch.arange(8) < 2)
    known = spread.value.item()
    assert known > 0
    for _ in range(2):
        _record(spread, _rows(1.0), torch.arange(8) == 3)
    assert spread.value == known


def test_features_that_never_had_a_spread_have_lost_none():
    spread = Spread()
    _record(spread, torch.ones(8, 3))
    assert spread.kept == 1


def _kept_after(*scales):
    spread = Spread()
    for scale in scales:
        _record(spread, _rows(scale))
    return spread.kept.item()


def test_a_loss_shows_within_two_batches_and_a_gain_is_missed_once_it_has_lasted():
    assert_close(_kept_after(*[1.0] * 20, 0.1, 0.1), 0.1, rtol=0.01, atol=0)
    assert_close(_kept_after(*[1.0] * 60, *[3.0] * 15, 1.0, 1.0), 1 / 3, rtol=0.01, atol=0)
    assert _kept_after(*[1.0] * 20, 1.5, 1.5) == 1


def test_the_largest_is_forgotten_by_a_factor_of_e_in_a_thousand_iterations():
    assert_close(_kept_after(*[1.0] * 20, *[0.1] * 1009), 0.1 * math.e, rtol=0.01, atol=0)


def _collapsing(strength):
    """A pull far too strong for a layer of ReLUs, whose groups are far apart."""
    torch.manual_seed(0)
    groups = [row % 2 for row in range(64)]
    rows = torch.randn(64, 4) + 4.0 * torch.tensor(groups)[:, None]
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    purify = PurifyRegularizer.for_model(model, GroupSampler(rows, groups, batch_size=16), strength=strength)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        chosen = torch.randint(64, (16,), generator=generator)
        optimizer.zero_grad()
        criterion(model(rows[chosen]), torch.tensor(groups)[chosen]).backward()
        optimizer.step()
    return purify.metrics().spread_kept


def test_features_that_have_collapsed_are_named_and_kept_from_it_where_asked_for():
    with pytest.warns(FeatureScaleWarning, match=r"BalancedStrength\(keep=1\)"):
        assert _collapsing(BalancedStrength(5.0, fade=0.0, keep=0.0)) < 0.02
    assert _collapsing(BalancedStrength(5.0, fade=0.0)) > 0.2
    assert _collapsing(BalancedStrength(5.0, fade=0.0, keep=1.0)) > 0.4


def test_one_strange_batch_is_no_loss_and_what_went_long_ago_is_not_missed():
    spread = Spread()
    for scale in (*[1.0] * 20, 10.0, *[1.0] * 10):
        _record(spread, _rows(scale))
    assert spread.kept > 0.99
    for _ in range(50):
        _record(spread, _rows(0.1))
    assert spread.kept < 0.11
    for _ in range(4000):
        _record(spread, _rows(0.1))
    assert spread.kept > 0.99


@pytest.mark.parametrize("place", [0, 20])
def test_the_critic_reads_features_in_units_that_one_outlier_does_not_move(place):
    spread = Spread()
    for step in range(30):
        _record(spread, _rows(1e5 if step == place else 1.0))
    usual = Spread()
    _record(usual, _rows(1.0))
    assert_close(spread.typical, usual.typical)


def test_what_was_kept_is_saved():
    spread = Spread()
    _record(spread, _rows(4.0))
    _record(spread, _rows(1.0))
    loaded = Spread()
    loaded.load_state_dict(spread.state_dict())
    assert loaded.kept == spread.kept < 1
