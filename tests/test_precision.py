"""Devices, dtypes, autocast, and numbers that are not finite."""

import math

import pytest
import torch
from small_loop import OBJECTIVES, small_network, small_sampler
from torch import nn

from wdpurify import BalancedStrength, GroupSampler, PurifyRegularizer


class _Recording(nn.Module):
    """A layer that records in which dtype it computed."""

    def __init__(self, seen):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.record = seen.append  # a method, so that the list is neither copied nor put back

    def forward(self, images):
        features = self.linear(images)
        self.record(features.dtype)
        return features


@pytest.mark.parametrize("width", [6, 100])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_step_runs_on_the_meta_device_so_nothing_strays_or_synchronises(objective, width):
    extract = nn.Sequential(small_network().features, nn.Linear(6, width)).to("meta")
    head = nn.Linear(width, 4, device="meta")
    purify = PurifyRegularizer(extract, small_sampler(), feature_dim=width, objective=objective, every=1)
    for _ in range(3):
        purify.critic_step()
        features = extract(torch.rand(5, 3, 8, 8, device="meta"))
        loss = head(features).sum() + purify.loss(features)
        assert loss.device.type == "meta"
        loss.backward()
        purify.optimizer_stepped()
    with pytest.raises((RuntimeError, NotImplementedError)):  # a synchronisation would have raised like this one
        loss.item()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bfloat16_autocast_leaves_the_critic_in_float32_and_every_parameter_its_gradient(objective):
    network = small_network()
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, objective=objective, every=1)
    for _ in range(2):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            purify.critic_step()
            features = network.features(torch.rand(5, 3, 8, 8))
            assert features.dtype == torch.bfloat16
            loss = network.head(features).float().square().mean() + purify.loss(features)
        loss.backward()
        purify.optimizer_stepped()
        assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in purify.critic.parameters())
    assert purify.metrics().gradient_ratio > 0


def test_auxiliary_forward_replays_the_training_forwards_autocast():
    seen = []
    extract = _Recording(seen)
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, every=1)
    for _ in range(2):
        extract.zero_grad()
        purify.critic_step()  # outside autocast, as in a loop that wraps only the forward
        with torch.autocast("cpu", torch.bfloat16):
            features = extract(torch.randn(5, 4))
            loss = features.float().sum() + purify.loss(features)
        loss.backward()
        purify.optimizer_stepped()
    assert seen == [torch.float32, torch.bfloat16, torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_dtypes_get_auxiliary_images_and_a_term_of_theirs(dtype):
    extract = nn.Linear(4, 3).to(dtype)
    purify = PurifyRegularizer(extract, GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8), feature_dim=3, every=1)
    purify.critic_step()
    features = extract(torch.randn(5, 4, dtype=dtype))
    term = purify.loss(features)
    assert term.dtype == torch.promote_types(dtype, torch.float32)
    (features.sum() + term).backward()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rows_that_are_not_finite_are_left_out_and_nothing_is_lost(bad, objective):
    images = torch.randn(32, 4)
    images[::4] = bad
    sampler = GroupSampler(images, [row % 2 for row in range(32)], batch_size=16)
    extract = nn.Linear(4, 3)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, objective=objective, every=1)
    for _ in range(4):
        purify.critic_step()
        features = extract(torch.cat([torch.randn(5, 4), torch.full((1, 4), bad)]))
        term = purify.loss(features)
        assert term.isfinite()
        (features[:5].sum() + term).backward()
        purify.optimizer_stepped()
    assert purify.metrics().dropped_rows > 0
    assert all(weight.isfinite().all() for weight in purify.critic.parameters())
    for tensors in purify.state_dict()["optimizer"]["state"].values():
        assert all(value.isfinite().all() for value in tensors.values())


def test_a_batch_without_a_usable_row_changes_nothing_to_nan():
    sampler = GroupSampler(torch.full((8, 4), math.nan), [0, 1] * 4, batch_size=4)
    purify = PurifyRegularizer(nn.Linear(4, 3), sampler, feature_dim=3, every=1)
    purify.critic_step()
    assert all(weight.isfinite().all() for weight in purify.critic.parameters())
    assert purify.metrics().estimate == 0


def test_a_loss_scalers_factor_does_not_overflow_the_term_of_half_precision_features():
    extract = nn.Linear(4, 3)
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, strength=BalancedStrength(1.0, fade=0), every=1)
    for _ in range(2):
        extract.zero_grad()
        purify.critic_step()
        features = extract(torch.randn(5, 4)).half()
        ((features.float().square().mean() * 1e-3 + purify.loss(features)) * 65536.0).backward()
        purify.optimizer_stepped()
        assert extract.weight.grad.isfinite().all()
    assert purify.metrics().gradient_ratio > 0


def test_autocast_is_replayed_even_where_loss_is_called_outside_of_it():
    seen = []
    extract = _Recording(seen)
    purify = PurifyRegularizer(extract, GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8), feature_dim=3, every=1)
    for _ in range(2):
        extract.zero_grad()
        purify.critic_step()
        with torch.autocast("cpu", torch.bfloat16):
            features = extract(torch.randn(5, 4))
        (features.float().sum() + purify.loss(features)).backward()
    assert seen[2] == torch.bfloat16


def test_another_default_dtype_does_not_upset_the_critic():
    torch.set_default_dtype(torch.float64)
    try:
        extract = nn.Linear(4, 3)
        purify = PurifyRegularizer(extract, GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8), feature_dim=3, every=1)
        for _ in range(2):
            purify.critic_step()
            features = extract(torch.randn(5, 4))
            (features.sum() + purify.loss(features)).backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert next(purify.critic.parameters()).dtype == torch.float32
    assert purify.metrics().gradient_ratio >= 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_critic_computes_in_float32_inside_the_users_autocast(objective):
    network = small_network()
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, objective=objective, every=1)
    seen = set()
    purify.critic.register_forward_hook(lambda module, arguments, output: seen.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        purify.critic_step()
        purify.loss(network.features(torch.rand(5, 3, 8, 8)))
    assert seen == {torch.float32}
