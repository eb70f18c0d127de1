"""Forwards that write to parameters and attributes, or reach parameters in other ways: fenced, or named."""

import collections
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from small_loop import equal_states, state_of
from torch import nn

from wdpurify import FixedStrength, GroupSampler, PurifyRegularizer
from wdpurify.exceptions import PurifyWarning


class _Rescaled(nn.Module):
    """An embedding that rescales its weight in place, tied to the output layer or not."""

    def __init__(self, *, tied):
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(50, 16, max_norm=1.0), nn.Linear(16, 16)
        self.head = nn.Linear(16, 50, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(torch.relu(self.hidden(self.embedding(tokens))).mean(1))


class _Momentum(nn.Module):
    """Keeps a slow copy of its encoder, as MoCo does, and updates it in each training forward."""

    def __init__(self, *, in_place):
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 50)
        self.slow = nn.Linear(16, 16).requires_grad_(False)
        self.in_place = in_place

    def forward(self, tokens):
        for slow, fast in zip(self.slow.parameters(), self.hidden.parameters(), strict=True):
            if self.in_place:
                with torch.no_grad():
                    slow.mul_(0.9).add_(fast, alpha=0.1)
            else:
                slow.data = 0.9 * slow.data + 0.1 * fast.data
        rows = self.embedding(tokens)
        return self.head((torch.relu(self.hidden(rows)) + self.slow(rows)).mean(1))


class _Counting(nn.Module):
    """Writes to a trained parameter in its forward."""

    def __init__(self, *, through_data=False):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)
        self.scale = nn.Parameter(torch.ones(()))
        self.through_data = through_data

    def forward(self, tokens):
        if self.training:
            with torch.no_grad():
                (self.scale.data if self.through_data else self.scale).mul_(0.99)
        return self.head(self.embedding(tokens).mean(1))


_Pair = collections.namedtuple("_Pair", ["first", "second"])


class _Array(nn.Module):
    """Counts its forwards in arrays of NumPy, and in a named tuple."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)
        self.seen, self.several = np.zeros(1), {"seen": np.zeros(())}
        self.pair = _Pair(torch.zeros(()), [])

    def forward(self, tokens):
        self.seen[0] += 1
        self.several["seen"] += 1
        self.pair.first.add_(1)
        self.pair.second.append(1)
        return self.head(self.embedding(tokens).mean(1) * (1 + 0.01 * (self._seen() + float(self.pair.first))))

    def _seen(self):
        return float(self.seen[0]) + float(self.several["seen"]) + len(self.pair.second)


class _Scripted(nn.Module):
    """Its extractor is compiled by TorchScript, or reached past the attributes of modules."""

    def __init__(self, way):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)
        body = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer versions of torch recommend others
            if way == "scripted":
                body = torch.jit.script(body)
            if way == "traced":
                body = torch.jit.trace(body, torch.rand(4, 16), check_trace=False)
        self.body = body
        self.first = partial(nn.functional.linear, weight=body[0].weight) if way == "a function of its weight" else body

    def forward(self, tokens):
        return self.head(self.first(self.embedding(tokens).mean(1)))


def _trained(make, strength):
    torch.manual_seed(0)
    model, criterion = make(), nn.CrossEntropyLoss()
    tokens, auxiliary = torch.randint(25, (64, 6)), torch.randint(50, (64, 6))
    if strength is not None:
        sampler = GroupSampler(auxiliary, ["a", "b"] * 32, batch_size=16)
        criterion = PurifyRegularizer.for_model(model, sampler, layer="head", strength=strength).criterion(criterion)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for batch in tokens.split(8):
        loss = criterion(model(batch), batch[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return state_of(model)


FENCED = {
    "an embedding that rescales its weight": lambda: _Rescaled(tied=False),
    "a slow copy that is exchanged": lambda: _Momentum(in_place=False),
    "a slow copy that is written to": lambda: _Momentum(in_place=True),
    "arrays that count forwards": _Array,
    "a scripted extractor": lambda: _Scripted("scripted"),
    "a traced extractor": lambda: _Scripted("traced"),
}


@pytest.mark.parametrize("make", FENCED.values(), ids=FENCED)
def test_what_is_fenced_is_bit_identical_without_a_pull_and_silent(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal_states(_trained(make, 0.0), _trained(make, None))
        assert not equal_states(_trained(make, FixedStrength(1.0)), _trained(make, None))


@pytest.mark.parametrize("kind", ["float8", "made in inference mode"])
def test_frozen_parameters_of_every_kind_are_watched_without_an_error(kind):
    class Kept(_Counting):
        def __init__(self):
            super().__init__()
            with torch.inference_mode(kind != "float8"):
                kept = torch.ones(3) if kind != "float8" else torch.ones(3).to(torch.float8_e4m3fn)
                self.kept = nn.Parameter(kept, requires_grad=False)

    with pytest.warns(PurifyWarning, match=r"writes to its parameters in place \(scale\)"):
        _trained(Kept, 0.5)


def test_a_large_array_is_left_alone():
    model = _Array()
    model.table = np.ones(2_000_000)
    seen = []
    model.register_forward_pre_hook(lambda module, _: seen.append(module.table))
    sampler = GroupSampler(torch.randint(50, (64, 6)), ["a", "b"] * 32, batch_size=16)
    purify = PurifyRegularizer(lambda tokens: seen.append(model.table) or model.embedding(tokens).mean(1), sampler, model=model)
    purify.critic_step()
    assert all(table is model.table for table in seen)


def test_a_tied_embedding_that_rescales_its_weight_fails_or_trains_as_without_the_library():
    def outcome(strength):
        try:
            return _trained(lambda: _Rescaled(tied=True), strength)
        except RuntimeError as error:
            return str(error)[:60]

    plain, watched = outcome(None), outcome(0.0)
    assert watched == plain if isinstance(plain, str) else equal_states(watched, plain)


@pytest.mark.parametrize("way", ["plain", "scripted", "traced", "a function of its weight"])
def test_the_pull_reaches_parameters_however_the_forward_does(way):
    gradients = []
    for strength in (FixedStrength(1.0), 0.0):
        torch.manual_seed(0)
        model, tokens = _Scripted(way), torch.randint(50, (64, 6))
        sampler = GroupSampler(tokens, ["a", "b"] * 32, batch_size=16)
        purify = PurifyRegularizer.for_model(model, sampler, layer="head", strength=strength)
        purify.criterion(nn.CrossEntropyLoss())(model(tokens[:8]), tokens[:8, 0]).backward()
        gradients.append(dict(model.named_parameters())["body.0.weight"].grad)
    assert not torch.equal(*gradients)


@pytest.mark.parametrize("through_data", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_a_trained_parameter_that_a_forward_writes_to_is_named(strength, through_data):
    with pytest.warns(PurifyWarning, match=r"writes to its parameters in place \(scale\)"):
        _trained(lambda: _Counting(through_data=through_data), strength)
