"""A small network, auxiliary set and training loop for tests: the contract's loop, line by line."""

import gc

import torch
from torch import nn

from wdpurify import GroupSampler, OneSided, TwoSided

OBJECTIVES = (TwoSided(), OneSided())


def small_network(*, dropout=0.0, norm=True):
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Flatten()]
    network = nn.Module()
    network.features = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(8 * 9, 6))
    network.head = nn.Linear(6, 4)
    return network


def small_sampler(*, fixed="all", seed=0, rows=60, batch_size=16):
    generator = torch.Generator().manual_seed(1)
    groups = [row % 3 for row in range(rows)]
    images = torch.rand((rows, 3, 8, 8), generator=generator) + torch.tensor(groups)[:, None, None, None]
    return GroupSampler(images, groups, fixed=fixed, batch_size=batch_size, seed=seed)


def train(network, purify, steps, start=0, lr=0.05):
    """Steps of the contract's loop; the data of step i depend on i alone. Returns the task losses."""
    optimizer = torch.optim.SGD(network.parameters(), lr)
    losses = []
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator)
        if purify is not None:
            purify.critic_step()
        features = network.features(images)
        loss = nn.functional.cross_entropy(network.head(features), labels)
        losses.append(loss.item())
        if purify is not None:
            loss = loss + purify.loss(features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal_states(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def live_tensors():
    """How many tensors Python holds, once its cycles are collected."""
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
