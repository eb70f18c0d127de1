"""What is remembered from one acting iteration to the next: windows, averages, and numbers that start alike everywhere."""

import pytest
import torch
from torch.testing import assert_close

from wdpurify.functional import gap_weights
from wdpurify.pull.gain import Gain
from wdpurify.pull.separation import Separation, relative_gap
from wdpurify.pull.spread import Spread
from wdpurify.pull.window import WeightedWindow, Window


def _weighted(*pairs):
    window = WeightedWindow(10)
    for value, weight in pairs:
        window.record(torch.tensor(value), torch.tensor(weight))
    return window.mean().item()


def test_the_median_is_that_of_the_last_values_asked_for():
    window = Window(9)
    for value in (1.0, 1.0, 1.0, 1.0, 1.0, 5.0, 7.0, 6.0):
        window.record(torch.tensor(value))
    assert window.median() == 1.0
    assert window.median(3) == 6.0


def test_a_value_without_weight_is_no_measure_of_outliers():
    assert _weighted((1.0, 1.0), *[(100.0, 0.0)] * 5, (100.0, 1.0)) == 3.0


def test_a_value_whose_share_is_no_float_says_nothing():
    assert _weighted((2.0, 1.0), (1e30, 1e30)) == 2.0


def test_separations_are_averaged_and_their_variance_by_chance_with_them():
    weights = gap_weights(torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.bool), 2)
    in_play = torch.ones(4, dtype=torch.bool)
    batches = (
        torch.tensor([[4.0, 0.0], [3.0, 1.0], [1.0, 2.0], [0.0, 5.0]]),
        torch.tensor([[2.0], [0.0], [1.0], [3.0]]).repeat(1, 2),
    )
    (first, chance), (second, other) = (relative_gap(scores, weights, in_play) for scores in batches)
    separation = Separation()
    for scores in batches:
        separation.record(scores, weights, in_play)
    assert_close(separation.value, 0.09 * first + 0.1 * second)
    assert_close(separation.variance, 0.0081 * chance + 0.01 * other)
    assert_close(separation.largest, 0.1 * first)


def _numbers(memory):
    known = vars(memory).values()
    return [number for each in known for number in (_numbers(each) if isinstance(each, Window) else [each])]


@pytest.mark.parametrize("make", [Gain, Separation, Spread, lambda: Window(3)])
def test_memories_start_in_single_precision_on_the_host_whatever_the_users_defaults(make):
    plain = [(number.dtype, number.device) for number in _numbers(make())]
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            memory = make()
    finally:
        torch.set_default_dtype(torch.float32)
    assert [(number.dtype, number.device) for number in _numbers(memory)] == plain
