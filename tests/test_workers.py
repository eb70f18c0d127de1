"""Worker processes of `GroupSampler`: the same rows in the same order, wherever they are read."""

import copy
import gc
import multiprocessing
import pickle
import random

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, default_collate

from wdpurify import GroupSampler, PurifyRegularizer

GROUPS = [row % 3 for row in range(30)]


class Rows(Dataset):
    """Reads a row with noise of its own, and says in which process."""

    def __init__(self, noise=False, broken=None):
        self.noise = noise
        self.broken = broken

    def __len__(self):
        return 30

    def __getitem__(self, row):
        if row == self.broken:
            raise RuntimeError("row cannot be read")
        noise = random.random() + torch.rand(()) if self.noise else 0.0
        return torch.full((4,), float(row)) + noise, multiprocessing.parent_process() is not None


def _sampler(workers=0, rows=None, **options):
    return GroupSampler(
        rows or Rows(), GROUPS, batch_size=6, num_workers=workers, collate_fn=default_collate, **{"seed": 3, **options}
    )


def _drawn(sampler, count=12):
    return [sampler.next_batch().images[0][:, 0].tolist() for _ in range(count)]


def test_workers_read_the_rows_of_one_process_in_its_order():
    with_workers, without = _sampler(2), _sampler()
    for _ in range(12):  # more than two epochs
        one, other = with_workers.next_batch(), without.next_batch()
        assert one.images[0].equal(other.images[0])
        assert one.groups.equal(other.groups)
        assert one.images[1].all()
        assert not other.images[1].any()
    with_workers.close()


@pytest.mark.parametrize("options", [{"balance": [row % 2 for row in range(30)]}, {"fixed": 1}, {"rank": 1, "world_size": 2}])
def test_every_order_is_that_of_one_process(options):
    options = {"batch_size": 4, **options}
    samplers = [GroupSampler(Rows(), GROUPS, num_workers=count, **options) for count in (0, 1)]
    ends = [[sampler.next_batch() for _ in range(6)] for sampler in samplers]
    for one, other in zip(*ends, strict=True):
        assert one.images.equal(other.images)
        assert one.groups.equal(other.groups)
    samplers[1].close()


def test_a_resumed_sampler_goes_on_where_it_was_saved_and_draws_the_same_noise():
    sampler = _sampler(2, Rows(noise=True))
    _drawn(sampler, 3)
    state = sampler.state_dict()
    expected = _drawn(sampler, 4)
    resumed = _sampler(1, Rows(noise=True))
    resumed.load_state_dict(state)
    assert _drawn(resumed, 4) == expected
    sampler.load_state_dict(state)  # prepared batches of later numbers are dropped
    assert _drawn(sampler, 4) == expected
    for made in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        made.load_state_dict(state)
        assert _drawn(made, 4) == expected
        made.close()
    sampler.close()
    resumed.close()


def test_workers_leave_the_global_generators_alone():
    states = torch.get_rng_state(), random.getstate()
    sampler = _sampler(1, Rows(noise=True))
    _drawn(sampler, 2)
    sampler.close()
    assert states[0].equal(torch.get_rng_state())
    assert states[1] == random.getstate()


def test_an_error_in_a_worker_arrives_and_the_processes_end():
    *_, last = _drawn(_sampler(), 5)
    sampler = _sampler(1, Rows(broken=int(last[0])))
    before = sampler.state_dict()
    with pytest.raises(RuntimeError, match="row cannot be read"):
        _drawn(sampler, 5)
    assert not multiprocessing.active_children()
    sampler.load_state_dict(before)
    assert len(_drawn(sampler, 1)) == 1
    sampler.close()
    assert not multiprocessing.active_children()


def test_a_number_of_workers_below_0_is_refused():
    for count in (-1, 0.5, "2"):
        with pytest.raises((TypeError, ValueError), match="`num_workers`"):
            _sampler(count)


def test_a_training_is_equal_with_and_without_workers():
    def trained(workers):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        sampler = GroupSampler(Rows(), GROUPS, batch_size=6, num_workers=workers)
        purify = PurifyRegularizer.for_model(model, sampler)
        criterion = purify.criterion(nn.CrossEntropyLoss())
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(4):
            loss = criterion(model(torch.randn(6, 4)), torch.arange(6) % 2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        sampler.close()
        return [parameter.detach().clone() for parameter in model.parameters()]

    for one, other in zip(trained(0), trained(2), strict=True):
        assert one.equal(other)


class Jitter:
    """Draws from a generator that it holds."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, batch):
        return batch[0] + torch.rand(batch[0].shape, generator=self.generator)


def test_generators_of_a_transform_draw_other_numbers_in_each_batch_and_the_same_after_a_resume():
    sampler = _sampler(2, transform=Jitter())
    noise = [(sampler.next_batch().images % 1)[0, 0].item() for _ in range(4)]
    assert len(set(noise)) == 4
    state = sampler.state_dict()
    expected = sampler.next_batch().images
    resumed = _sampler(1, transform=Jitter())
    resumed.load_state_dict(state)
    assert resumed.next_batch().images.equal(expected)
    sampler.close()
    resumed.close()


def test_workers_end_with_the_sampler():
    gc.disable()
    try:
        sampler = _sampler(2)
        sampler.next_batch()
        assert len(multiprocessing.active_children()) == 2
        del sampler
        assert not multiprocessing.active_children()
    finally:
        gc.enable()
