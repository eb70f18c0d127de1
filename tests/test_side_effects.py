"""What stays as it was: the model's statistics, modes, gradients and keys, the global random state, evaluation."""

import random
from collections import UserDict

import numpy as np
import pytest
import torch
from small_loop import OBJECTIVES, equal_states, small_network, small_sampler, state_of, train
from torch import nn

from wdpurify import GroupSampler, PurifyRegularizer


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_neither_call_leaves_a_gradient_where_it_does_not_belong(objective):
    network = small_network()
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, objective=objective, every=1)
    before = state_of(network)
    critic_before = state_of(purify.critic)
    purify.critic_step()
    assert equal_states(before, state_of(network))
    assert not equal_states(critic_before, state_of(purify.critic))
    assert all(parameter.grad is None for parameter in [*network.parameters(), *purify.critic.parameters()])
    features = network.features(torch.rand(5, 3, 8, 8))
    critic_before = state_of(purify.critic)
    (purify.loss(features) + network.head(features).sum()).backward()
    assert equal_states(critic_before, state_of(purify.critic))
    assert all(parameter.grad is None for parameter in purify.critic.parameters())
    assert all(parameter.requires_grad for parameter in purify.critic.parameters())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("update_statistics", [False, True])
def test_batchnorm_statistics_stay_bit_identical_unless_asked_otherwise(objective, update_statistics):
    network = small_network()
    purify = PurifyRegularizer(
        network.features, small_sampler(), feature_dim=6, objective=objective, update_statistics=update_statistics, every=1
    )
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    versions = [buffer._version for buffer in buffers]
    purify.critic_step()
    same = all(torch.equal(old, new) for old, new in zip(before, buffers, strict=True))
    assert same is not update_statistics
    assert all(old is new for old, new in zip(buffers, network.buffers(), strict=True))
    if not update_statistics:
        assert versions == [buffer._version for buffer in buffers]


def test_statistics_after_training_equal_those_of_the_run_without_strength_in_a_frozen_network():
    # With lr 0 the weights stay, so the buffers depend on the task batches alone.
    buffers = []
    for strength in (0.0, 1.0):
        torch.manual_seed(0)
        network = small_network()
        train(network, PurifyRegularizer(network.features, small_sampler(), feature_dim=6, strength=strength), 5, lr=0.0)
        buffers.append([buffer.clone() for buffer in network.buffers()])
    assert all(torch.equal(first, second) for first, second in zip(*buffers, strict=True))


def test_modes_and_requires_grad_are_not_touched():
    network = small_network()
    network.features[1].eval()
    network.features[0].weight.requires_grad_(False)
    train(network, PurifyRegularizer(network.features, small_sampler(), feature_dim=6, every=1), 3)
    assert [module.training for module in network.features] == [True, False, True, True, True, True]
    assert not network.features[0].weight.requires_grad


def test_an_auxiliary_forward_between_forward_and_backward_does_not_upset_autograd():
    network = small_network()
    network.features[1].eval()  # frozen BatchNorm saves its running statistics for the backward pass
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, every=1)
    for _ in range(2):
        early = network.features(torch.rand(4, 3, 8, 8)).sum()
        purify.critic_step()
        early.backward()
        purify.critic_step()
        network.features[1].running_mean.add_(0.0)  # what DDP's buffer broadcast does to the version counter
        features = network.features(torch.rand(4, 3, 8, 8))
        (network.head(features).sum() + purify.loss(features)).backward()
    assert network.features[0].weight.grad.isfinite().all()


def test_critic_never_appears_in_the_users_model():
    network = small_network()
    keys, count = list(network.state_dict()), len(list(network.parameters()))
    train(network, PurifyRegularizer(network.features, small_sampler(), feature_dim=6), 3)
    assert list(network.state_dict()) == keys
    assert len(list(network.parameters())) == count


def test_evaluation_adds_nothing_and_keeps_nothing():
    network = small_network()
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6)
    purify.critic_step()
    with torch.no_grad():
        term = purify.loss(network.features(torch.rand(4, 3, 8, 8)))
    assert term == 0
    assert not term.requires_grad


@pytest.mark.parametrize("update_statistics", [False, True])
def test_feature_width_is_found_by_a_forward_that_leaves_no_trace(update_statistics):
    network = small_network(dropout=0.5)
    sampler = small_sampler()
    before, random_state = state_of(network), torch.get_rng_state()
    purify = PurifyRegularizer(network.features, sampler, update_statistics=update_statistics)
    assert purify.critic[0].in_features == 6
    assert equal_states(before, state_of(network))
    assert torch.equal(random_state, torch.get_rng_state())
    assert sampler.state_dict()["drawn"] == 0


class _Augmented:
    """Auxiliary images with noise of every kind that data sets draw."""

    def __len__(self):
        return 30

    def __getitem__(self, row):
        return torch.full((4,), float(row)) + torch.randn(4) + random.random() + float(np.random.rand())  # noqa: NPY002


def test_random_augmentation_of_auxiliary_rows_is_fenced_off_and_repeats_after_a_resume():
    def make():
        sampler = GroupSampler(_Augmented(), [row % 3 for row in range(30)], batch_size=8)
        return PurifyRegularizer(nn.Linear(4, 3), sampler, feature_dim=3, every=1, strength=0.0)

    whole = make()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    whole.critic_step()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    whole.critic_step()
    estimate = whole.metrics().estimate
    first, resumed = make(), make()
    resumed._forward.model.load_state_dict(whole._forward.model.state_dict())
    first._forward.model.load_state_dict(whole._forward.model.state_dict())
    first.critic_step()
    resumed.load_state_dict(first.state_dict())
    torch.randn(7)
    first.critic_step()
    resumed.critic_step()
    assert resumed.metrics().estimate == first.metrics().estimate
    assert estimate != 0


def test_dict_rows_reach_the_extractor_by_keyword():
    class Extract(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, pixel_values):
            return self.linear(pixel_values)

    rows = [{"pixel_values": torch.randn(4)} for _ in range(20)]
    for transform in (None, UserDict):
        sampler = GroupSampler(rows, [0, 1] * 10, batch_size=8, transform=transform)
        purify = PurifyRegularizer(Extract(), sampler)
        purify.critic_step()
        assert purify.metrics().feature_norm > 0


def test_updated_statistics_do_not_upset_a_backward_that_is_still_to_come():
    """The wrapped criterion acts between the user's forward and his backward."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    purify = PurifyRegularizer.for_model(model, small_sampler(), update_statistics=True, every=1)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    scores = model(torch.rand(8, 3, 8, 8))
    before = model[2].running_mean.clone()
    loss = criterion(scores, torch.zeros(8, dtype=torch.long))
    assert not torch.equal(before, model[2].running_mean)
    loss.backward()
