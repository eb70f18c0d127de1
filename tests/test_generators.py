"""Random generators that are not the global ones, in a transform, a data set or the model: fenced off like the global ones."""

import functools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from wdpurify import GroupBatch, GroupSampler, PurifyRegularizer
from wdpurify._torch.generators import generators_in

SHARED = np.random.default_rng(0)


class _Rows(Dataset):
    def __init__(self, transform):
        self.rows, self.transform, self.seen = torch.rand(64, 8), transform, []

    def __len__(self):
        return 64

    def __getitem__(self, row):
        self.seen.append(self.transform(self.rows[row]))
        return self.seen[-1], row % 3


class _Noisy(nn.Sequential):
    generator = None

    def forward(self, rows):
        return super().forward(rows if self.generator is None else rows + torch.randn(rows.shape, generator=self.generator))


class _Jitter:
    def __init__(self, generator):
        self.steps = {"jitter": [generator]}

    def __call__(self, row):
        return row + self.steps["jitter"][0].normal()


def _scaled(generator, row):
    return row * generator.random()


def _named(row):
    return row + SHARED.normal()


def _closing_over(generator):
    return lambda row: row + generator.gauss(0, 1)


TRANSFORMS = {
    "an attribute": lambda: _Jitter(np.random.default_rng(0)),
    "a former kind of NumPy": lambda: _Jitter(np.random.RandomState(0)),
    "closed over": lambda: _closing_over(random.Random(0)),
    "a partial's argument": lambda: functools.partial(_scaled, np.random.default_rng(0)),
    "a variable of the module": lambda: _named,
}


def _losses(transform, strength, *, of_model=False):
    torch.manual_seed(0)
    SHARED.bit_generator.state = np.random.PCG64(0).state
    model, criterion = _Noisy(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), nn.CrossEntropyLoss()
    task, auxiliary = _Rows(transform), _Rows(transform)
    model.generator = torch.Generator().manual_seed(0) if of_model else None
    if strength is not None:
        sampler = GroupSampler(auxiliary, [0, 1] * 32, batch_size=16)
        criterion = PurifyRegularizer.for_model(model, sampler, strength=strength).criterion(criterion)
    losses = [criterion(model(rows.float()), labels).item() for rows, labels in DataLoader(task, batch_size=16)]
    return losses, auxiliary.seen


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_generator_of_a_shared_transform_gives_the_task_what_it_gave_without(name):
    make = TRANSFORMS[name]
    assert _losses(make(), None)[0] == _losses(make(), 0.0)[0]
    seen = _losses(_Jitter(np.random.default_rng(0)), 0.0)[1]
    noise = {round(float(row[0]), 5) for row in seen}
    assert len(noise) == len(seen)  # auxiliary batches are not all given the same numbers


def test_a_generator_of_the_model_gives_the_task_what_it_gave_without():
    assert _losses(lambda row: row, None, of_model=True)[0] == _losses(lambda row: row, 0.0, of_model=True)[0]


def test_generators_are_found_without_running_code_and_long_lists_are_not_read():
    class Guarded:
        def __init__(self):
            self.rng = random.Random(0)

        @property
        def loaded(self):
            raise RuntimeError

    deep = functools.partial(_scaled, {"a": [Guarded(), torch.Generator()]})
    assert [type(each) for each in generators_in(deep, deep)] == [torch.Generator, random.Random]
    assert generators_in([random.Random(0)] * 1000) == []
    cyclic = []
    cyclic.append(cyclic)
    assert generators_in(cyclic, None, nn.Linear(2, 2), torch.rand(3)) == []


class _Shuffled:
    """A sampler whose order comes from a generator of its own."""

    n_groups = 2

    def __init__(self, seed):
        self.generator, self.drawn = torch.Generator().manual_seed(seed), []

    def next_batch(self):
        self.drawn.append(torch.randperm(64, generator=self.generator)[:16].tolist())
        return GroupBatch(torch.rand(16, 8), torch.arange(16) % 2, torch.ones(16, dtype=torch.bool))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_sampler_keeps_the_order_of_its_own_generator():
    drawn = []
    for seed in (0, 1):
        sampler = _Shuffled(seed)
        purify = PurifyRegularizer(nn.Linear(8, 4), sampler, feature_dim=4)
        purify.critic_step()
        generator = torch.Generator().manual_seed(seed)
        assert sampler.drawn == [torch.randperm(64, generator=generator)[:16].tolist() for _ in sampler.drawn]
        drawn.append(sampler.drawn)
    assert drawn[0] != drawn[1]


class _Awkward(dict):
    def values(self):
        raise RuntimeError("not today")


def test_objects_that_raise_are_passed_by_and_helpers_are_followed():
    generator = np.random.default_rng(0)

    class Transform:
        def __init__(self):
            self.awkward = _Awkward(a=1)

        def __call__(self, batch):
            return self.jitter(batch)

        def jitter(self, batch):
            return [row + generator.normal() for row in batch]

    assert generators_in(Transform()) == [generator]
    assert generators_in(lambda batch: [row + SHARED.normal() for row in batch]) == [SHARED]
