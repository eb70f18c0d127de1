"""Ranks that differ, fail or end early: each ends in time, with a message that names the fault."""

import os
import traceback
from functools import partial

import pytest
import torch
import torch.distributed as dist
from ranks import ended_on_ranks, run_on_ranks
from small_loop import small_network
from torch import nn
from torch.distributed.algorithms.join import Join

from wdpurify import Critic, GroupSampler, PurifyRegularizer

#: Seconds that the collectives of these ranks wait.
TIMEOUT = 8
STEPS = 6
FAULTY_STEP = 3


def _sampler(*, rows=60, batch_size=8, seed=0, values=3, turned=0, reversed_from=None, transform=None):
    groups = [(row + turned) % values for row in range(rows)]
    groups = groups if reversed_from is None else groups[:reversed_from] + groups[: reversed_from - 1 : -1]
    images = torch.rand((rows, 3, 8, 8), generator=torch.Generator().manual_seed(1)) + torch.tensor(groups)[:, None, None, None]
    return GroupSampler(images, groups, batch_size=batch_size, seed=seed, transform=transform)


#: By what differs on rank 1: the sampler and the regularizer there, and the name in the message.
UNLIKE = {
    "order of the values": ({"turned": 1}, {}, "`groups`"),
    "order of the rows": ({"reversed_from": 3}, {}, "`checksum of the rows' labels`"),
    "values": ({"values": 4}, {}, "`groups`"),
    "size of the set": ({"rows": 63}, {}, "`groups`"),
    "batch size": ({"batch_size": 4}, {}, "`batch_size`"),
    "seed": ({"seed": 1}, {}, "`seed`"),
    "every": ({}, {"every": 2}, "`every`"),
    "width of the features": ({}, {"feature_dim": 192}, "`feature_dim`"),
    "width of the critic": ({}, {"critic": partial(Critic, hidden=(8,))}, "`shapes of the critic`"),
}


class _OfTheUser:
    """A sampler without an identity of its own."""

    n_groups = 3

    def __init__(self, sampler):
        self.next_batch = sampler.next_batch
        self.state_dict = sampler.state_dict
        self.load_state_dict = sampler.load_state_dict


def unlike():
    """On each rank: what the first act says, for each difference of rank 1."""
    messages = {}
    for name, (changed, options, _) in UNLIKE.items():
        other = dist.get_rank() == 1
        options = {"feature_dim": 6} | (options if other else {})
        extract = nn.Flatten() if options["feature_dim"] == 192 else small_network().features
        try:
            PurifyRegularizer(extract, _sampler(**(changed if other else {})), **options).critic_step()
        except ValueError as error:
            messages[name] = str(error)
    mixed = _OfTheUser(_sampler()) if dist.get_rank() == 0 else _sampler()
    try:
        PurifyRegularizer(small_network().features, mixed, feature_dim=6).critic_step()
    except ValueError as error:
        messages["kind of sampler"] = str(error)
    return messages


def test_ranks_that_differ_are_refused_on_every_rank_by_what_differs(tmp_path):
    first, second = run_on_ranks(unlike, tmp_path)
    assert first == second
    assert first.keys() == UNLIKE.keys() | {"kind of sampler"}
    for name, (_, _, named) in UNLIKE.items():
        assert f"but {named} is " in first[name]


class _Both(nn.Module):
    """Features and scores in one forward, so that it passes the wrapper."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = small_network(norm=False)

    def forward(self, images):
        features = self.network.features(images)
        return features, self.network.head(features)


class _FailsOnce:
    def __init__(self, fails):
        self.calls = 0
        self.fails = fails

    def __call__(self, images):
        self.calls += 1
        if self.fails and self.calls == FAULTY_STEP:
            raise OSError("a broken file")
        return images


def faulty(fault):
    """A loop in which rank 1 does not do what rank 0 does."""
    other = dist.get_rank() == 1
    sampler = _sampler(transform=_FailsOnce(other and fault in ("raises", "raises and goes on")))
    both = _Both()
    purify = PurifyRegularizer(both.network.features, sampler, feature_dim=6)
    model = nn.parallel.DistributedDataParallel(both)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def step(number):
        if other and number == FAULTY_STEP and fault == "dies":
            os._exit(9)
        skips = other and number == FAULTY_STEP and fault == "skips the term"
        if not skips:
            purify.critic_step()
        features, scores = model(torch.rand(4, 3, 8, 8))
        loss = scores.square().mean()
        (loss if skips else loss + purify.loss(features)).backward()
        optimizer.step()
        optimizer.zero_grad()

    steps = FAULTY_STEP if other and fault in ("ends early", "joins") else STEPS
    if fault == "joins":
        with Join([model]):
            for number in range(steps):
                step(number)
        return
    failures = 0
    for number in range(steps):
        try:
            step(number)
        except Exception:
            if fault != "raises and goes on":
                raise
            failures += 1
            traceback.print_exc()
    if failures:
        os._exit(failures)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["skips the term", "ends early", "joins", "raises", "raises and goes on", "dies"])
def test_a_rank_that_fails_ends_all_in_time_with_a_message_that_names_the_fault(fault, tmp_path):
    first, second = ended_on_ranks(faulty, tmp_path, fault, timeout=TIMEOUT)
    assert first[0] != 0
    assert "wdpurify: rank 0 of 2 did not receive the other ranks' auxiliary rows" in first[1]
    if fault.startswith("raises"):
        assert "a broken file" in second[1]
