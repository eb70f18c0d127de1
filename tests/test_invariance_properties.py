"""What a user's set-up changes must not change the pull: scale and width of features, groups' order, loss scale, batches."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from wdpurify import BalancedStrength, GroupSampler, PurifyRegularizer


def _groups_apart(rows=256, dim=8, apart=2.0, groups=2):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % groups
    features = torch.randn((rows, dim), generator=generator)
    features[:, 0] += apart * labels
    return features, labels.tolist()


def _applied_ratio(scale=1.0, loss_scale=1.0, order=1, task_rows=16, aux_rows=16, dim=6):
    """Applied over task gradient once the balance is known; the fade is off, so it is to be the strength."""
    torch.manual_seed(0)
    extract = nn.Linear(8, dim)
    with torch.no_grad():
        extract.weight.mul_(scale)
        extract.bias.mul_(scale)
    images, labels = _groups_apart()
    names = ["a", "b"][::order]
    sampler = GroupSampler(images, [names[label] for label in labels], batch_size=aux_rows)
    purify = PurifyRegularizer(extract, sampler, feature_dim=dim, strength=BalancedStrength(0.5, fade=0), every=1)
    rows, weights = torch.randn(task_rows, 8), torch.randn(dim)
    optimizer = torch.optim.SGD(extract.parameters(), 0.0)
    for _ in range(3):
        optimizer.zero_grad()
        purify.critic_step()
        features = extract(rows)
        (((features @ weights).square().mean() + purify.loss(features)) * loss_scale).backward()
        optimizer.step()
    return purify.metrics().gradient_ratio


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("loss_scale", [2.0**-10, 1.0, 2.0**16])
def test_the_ratio_of_the_pull_is_free_of_the_scales_of_features_and_loss(scale, loss_scale):
    assert_close(_applied_ratio(scale=scale, loss_scale=loss_scale), 0.5, rtol=1e-3, atol=0)


@pytest.mark.parametrize("task_rows", [8, 256])
@pytest.mark.parametrize("aux_rows", [8, 256])
@pytest.mark.parametrize("order", [1, -1])
def test_the_ratio_of_the_pull_is_free_of_batch_sizes_and_of_the_order_of_groups(task_rows, aux_rows, order):
    assert_close(_applied_ratio(task_rows=task_rows, aux_rows=aux_rows, order=order), 0.5, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dim", [6, 600])
def test_the_ratio_of_the_pull_is_free_of_the_width_of_the_features(dim):
    assert_close(_applied_ratio(dim=dim), 0.5, rtol=1e-3, atol=0)
