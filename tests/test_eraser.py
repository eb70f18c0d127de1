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
from wdpurify.erasure.covariance import moments
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


@pytest.mark.parametrize("left", [1.0, 0.05])
def test_a_map_through_the_origin_is_linear_however_near_the_mean_is(left):
    features, groups = labelled_rows()
    features = features - (1.0 - left) * features.mean(0)
    eraser = fit_eraser(features, groups, through_origin=True)
    assert_close(eraser(torch.zeros(1, 12)), torch.zeros(1, 12), rtol=0, atol=1e-5)
    assert_close(eraser(features.mean(0)), features.mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_what_is_erased_is_free_of_the_scale_of_the_features(scale):
    features, groups = labelled_rows()
    eraser = fit_eraser(scale * features, groups)
    assert eraser.rank == 2
    assert_close(eraser(scale * features) / scale, fit_eraser(features, groups)(features), rtol=0, atol=1e-4)


def _reference_share(covariance, count):
    """Eq. 23 of Chen et al. 2010, entry by entry."""
    dim = len(covariance)
    square = sum(entry * entry for row in covariance.tolist() for entry in row)
    trace = sum(covariance[place, place].item() for place in range(dim))
    return ((1 - 2 / dim) * square + trace**2) / ((count + 1 - 2 / dim) * (square - trace**2 / dim))


@pytest.mark.parametrize("scale", [1e-2, 1.0])
def test_the_covariance_is_shrunk_by_the_share_that_its_source_gives_for_as_many_rows_as_the_weights_are_worth(scale):
    features = scale * labelled_rows(30, 5)[0]
    weights = torch.arange(1.0, 31.0, dtype=torch.float64)
    shares = weights / weights.sum()
    centred = features - (shares[:, None] * features).sum(0)
    plain = torch.cov(features.T, aweights=weights, correction=0)
    share = _reference_share(plain, (weights.sum() ** 2 / weights.square().sum()).item())
    assert 0.05 < share < 0.95
    found = moments(features, weights)
    assert_close(found.centred, centred)
    assert_close(found.covariance, (1 - share) * plain + share * plain.trace() / 5 * torch.eye(5, dtype=torch.float64))
    asked = moments(features, weights, shrinkage=0.3).covariance
    assert_close(asked, 0.7 * plain + 0.3 * plain.trace() / 5 * torch.eye(5, dtype=torch.float64))


def test_directions_that_hardly_differ_are_taken_for_alike_and_rows_that_are_alike_for_unit_scale():
    nearly = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    nearly[0] *= 1.01
    found = moments(nearly, torch.ones(6, dtype=torch.float64)).covariance
    assert_close(found, found.trace() / 3 * torch.eye(3, dtype=torch.float64))
    alike = moments(torch.ones(4, 3, dtype=torch.float64), torch.ones(4, dtype=torch.float64)).covariance
    assert_close(alike, torch.eye(3, dtype=torch.float64))


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


@pytest.mark.parametrize("shape", [(5, 12, 12), (5, 3, 12, 12)])
def test_features_stand_in_the_last_axis_unless_channels_come_second_of_four(shape):
    eraser, features = fit_eraser(*labelled_rows()), torch.randn(shape)
    assert_close(eraser(features).reshape(-1, 12), eraser(features.reshape(-1, 12)))


def test_half_precision_is_rounded_once():
    eraser, features = fit_eraser(*labelled_rows()), torch.randn(50, 12).bfloat16()
    assert torch.equal(eraser(features), eraser(features.float()).bfloat16())


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
    with pytest.raises(ValueError, match=r"the label takes all \d+ dimensions"):
        fit_eraser(features[:, :2], torch.arange(400) % 3)


def test_the_probe_reads_what_is_there_and_nothing_else():
    features, groups = labelled_rows(2000, 6, 2)
    weights = torch.ones(2000, dtype=torch.float64)
    features[:, 2] += 20.0 * groups
    assert decoded(features, groups, weights)[0] > 0.9
    found, chance = decoded(features, groups[torch.randperm(2000)], weights)
    assert chance == 0.5
    assert abs(found - chance) < 0.05


def test_the_probe_leaves_out_values_that_one_half_lacks():
    features, groups = labelled_rows(60, 6, 3)
    groups[:] = torch.arange(60) // 2 % 2
    groups[0] = 2
    found, chance = decoded(features, groups, torch.ones(60, dtype=torch.float64))
    assert 0.0 <= found <= 1.0
    assert chance == 0.5
    each_in_one_half = torch.arange(60) % 2
    assert all(map(math.isnan, decoded(features, each_in_one_half, torch.ones(60, dtype=torch.float64))))


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
