"""A label of very many values: a warning, and a cost that grows with them and not with their square."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from wdpurify import GroupSampler, PurifyRegularizer
from wdpurify.exceptions import AuxiliaryDataWarning


class _Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that was made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_a_million_rows_of_a_hundred_thousand_values_are_drawn_from():
    groups = [str(row % 100_000) for row in range(1_000_000)]
    with pytest.warns(AuxiliaryDataWarning, match="100000 values"):
        sampler = GroupSampler(torch.rand(1_000_000, 4), groups)
    assert sampler.n_groups == 100_000
    assert sampler.next_batch().groups.shape == (32,)


def test_a_step_makes_nothing_larger_than_the_critic_whatever_the_number_of_groups():
    values = 5_000
    with pytest.warns(AuxiliaryDataWarning):
        sampler = GroupSampler(torch.rand(2 * values, 4), [str(value) for value in range(values)] * 2, batch_size=16)
    network = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    purify = PurifyRegularizer(network[0], sampler, feature_dim=6)
    with _Largest() as largest:
        purify.critic_step()
        (network[1](features := network[0](torch.rand(4, 4))).sum() + purify.loss(features)).backward()
    assert 16 * values <= largest.elements <= max(parameter.numel() for parameter in purify.critic.parameters())
