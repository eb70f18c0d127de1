"""Theorem 1 of the paper: the bound on the error under another distribution, against exact distances."""

import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wdpurify.functional import transferred_error_bound

widths = st.integers(1, 4)


def _exact_distance(first, second):
    cost = ot.dist(first.numpy(), second.numpy(), metric="euclidean")
    return ot.emd2([], [], cost)


@given(st.integers(0, 10_000), widths, widths, st.integers(2, 12), st.integers(2, 12))
def test_the_error_under_another_distribution_is_never_above_the_bound(seed, dim, outputs, first_rows, second_rows):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    first, second = draw(first_rows, dim), draw(second_rows, dim) + draw(dim)
    classifier, ideal = draw(outputs, dim), draw(outputs, dim)
    lipschitz = max(np.linalg.norm(weight.numpy(), 2) for weight in (classifier, ideal))
    errors = [(rows @ (classifier - ideal).T).norm(dim=1).mean().item() for rows in (first, second)]
    bound = transferred_error_bound(errors[1], _exact_distance(first, second), lipschitz=lipschitz)
    assert errors[0] <= bound * (1 + 1e-9)


def test_the_bound_is_reached_where_the_two_classifiers_pull_apart_as_fast_as_they_may():
    """One moves up and the other down with the feature: their distance grows twice as fast as either."""
    near, far = torch.zeros(5, 1, dtype=torch.float64), torch.full((5, 1), 3.0, dtype=torch.float64)
    errors = [(2.0 * rows).abs().mean().item() for rows in (near, far)]
    assert math.isclose(transferred_error_bound(errors[0], _exact_distance(far, near), lipschitz=1.0), errors[1])
    assert transferred_error_bound(errors[0], _exact_distance(far, near), lipschitz=0.9) < errors[1]


@pytest.mark.parametrize("name", ["error", "distance", "lipschitz"])
def test_values_below_zero_are_refused(name):
    values = {"error": 0.1, "distance": 0.2, "lipschitz": 1.0} | {name: -1.0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 0, got -1.0"):
        transferred_error_bound(values["error"], values["distance"], lipschitz=values["lipschitz"])
