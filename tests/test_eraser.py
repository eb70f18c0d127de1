"""The closed form of erasing beside its source's own code; the probe and the refitted classifier beside their definitions."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from labelled_rows import labelled_rows, shared_covariance
from torch import nn
from torch.testing import assert_close

from wdpurify import Eraser
from wdpurify.erasure import fit_eraser
from wdpurify.erasure.head import refit
from wdpurify.erasure.probe import decoded


def test_the_map_is_that_of_the_methods_own_library():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        leace = pytest.importorskip("concept_erasure")
        features, groups = labelled_rows()
        labels = nn.functional.one_hot(groups).double()
        fitter = leace.LeaceFitter(12, 3, dtype=torch.float64, shrinkage=False)
        expected = fitter.update(features, labels).eraser(features)
    found = fit_eraser(features, groups, shrinkage=0.0)
    assert found.rank == 2
    assert_close(found(features), expected, rtol=0, atol=1e-4)


@given(st.integers(2, 5), st.integers(6, 40), st.integers(0, 10_000), st.booleans())
def test_no_linear_probe_reads_the_label_of_the_fitted_rows(values, dim, seed, through_origin):
    features, groups = labelled_rows(60, dim, values, seed)
    groups[:values] = torch.arange(values)
    weights = torch.rand(60, generator=torch.Generator().manual_seed(seed)) + 0.1
    eraser = fit_eraser(features, groups, weights, through_origin=through_origin)
    assert shared_covariance(features, groups, weights).norm() > 1e-2
    assert shared_covariance(eraser(features), groups, weights).norm() < 1e-4 * features.norm()
    twice = eraser(eraser(features))
    assert_close(twice, eraser(features), rtol=0, atol=1e-3)


def test_a_map_through_the_origin_is_linear_and_keeps_the_mean():
    features, groups = labelled_rows()
    eraser = fit_eraser(features, groups, through_origin=True)
    assert_close(eraser(torch.zeros(1, 12)), torch.zeros(1, 12), rtol=0, atol=1e-4)
    assert_close(eraser(features).mean(0), features.mean(0), rtol=0, atol=1e-4)
    assert fit_eraser(features, groups)(torch.zeros(1, 12)).abs().max() > 0.1


def test_more_dimensions_than_rows_leave_the_features_nearly_as_they_are():
    features, groups = labelled_rows(40, 300, 2)
    erased = fit_eraser(features, groups)(features)
    assert (erased - features).norm() < 0.6 * (features - features.mean(0)).norm()


@pytest.mark.parametrize("shape", [(5, 12), (5, 7, 12), (5, 12, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_eraser_takes_features_of_every_shape_and_dtype(shape, dtype):
    eraser = fit_eraser(*labelled_rows())
    features = torch.randn(shape).to(dtype)
    erased = eraser(features)
    assert erased.shape == shape
    assert erased.dtype == dtype
    flat, flat_erased = (each.movedim(1, -1) if len(shape) == 4 else each for each in (features, erased))
    assert_close(flat_erased.reshape(-1, 12), eraser(flat.reshape(-1, 12)))
    with pytest.raises(ValueError, match="12 entries in the last axis"):
        eraser(torch.randn(5, 11))


def test_an_eraser_is_saved_and_said_like_any_module():
    eraser = fit_eraser(*labelled_rows())
    twin = Eraser(torch.zeros(12, 2), torch.zeros(12, 2), torch.zeros(12))
    twin.load_state_dict(eraser.state_dict())
    assert torch.equal(twin(torch.ones(1, 12)), eraser(torch.ones(1, 12)))
    assert repr(twin) == "Eraser(12 features, 2 directions removed)"


def test_labels_that_cannot_be_erased_are_refused():
    features, _ = labelled_rows()
    with pytest.raises(ValueError, match="at least two label values"):
        fit_eraser(features, torch.zeros(400, dtype=torch.int64))
    with pytest.raises(ValueError, match="nothing would be left"):
        fit_eraser(features[:, :2], torch.arange(400) % 3)


def test_the_probe_reads_what_is_there_and_nothing_else():
    features, groups = labelled_rows(2000, 6, 2)
    weights = torch.ones(2000, dtype=torch.float64)
    features[:, 2] += 20.0 * groups
    assert decoded(features, groups, weights) > 0.9
    assert abs(decoded(features, groups[torch.randperm(2000)], weights) - 0.5) < 0.05


def test_the_probe_leaves_out_values_that_one_half_lacks():
    features, groups = labelled_rows(60, 6, 3)
    groups[:] = torch.arange(60) // 2 % 2
    groups[0] = 2
    found = decoded(features, groups, torch.ones(60, dtype=torch.float64))
    assert 0.0 <= found <= 1.0
    each_in_one_half = torch.arange(60) % 2
    assert math.isnan(decoded(features, each_in_one_half, torch.ones(60, dtype=torch.float64)))


def test_features_that_are_all_alike_have_nothing_to_erase():
    rows = torch.ones(20, 4)
    eraser = fit_eraser(rows, torch.arange(20) % 2)
    assert eraser.rank == 0
    assert torch.equal(eraser(rows), rows)


def test_a_refitted_head_is_the_minimum_of_its_loss():
    features, _ = labelled_rows(200, 5)
    labels = (features[:, 0] + features[:, 1] > features[:, :2].sum(1).mean()).long()
    weight, bias = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    scale = (features - features.mean(0)).square().mean()

    def value(slopes, offset):
        loss = nn.functional.cross_entropy(features @ slopes.T + offset, labels)
        return loss + 0.5 * 100.0 / 200 * scale * (slopes - weight).square().sum()

    found = [each.requires_grad_() for each in refit(features, labels, weight, bias)]
    gradients = torch.autograd.grad(value(*found), found)
    assert max(gradient.abs().max() for gradient in gradients) < 1e-3
    assert value(*found) < value(weight, bias)


def test_a_strong_prior_keeps_the_old_weights():
    features, _ = labelled_rows(200, 5)
    weight, bias = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    found, _ = refit(features, torch.arange(200) % 2, weight, bias, prior=1e9)
    assert_close(found, weight, rtol=0, atol=1e-4)
