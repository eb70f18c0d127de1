"""An interrupt at any line, and a state saved by a signal handler: the model and the state are whole at any moment."""

import copy
import random
import sys

import pytest
import torch
from small_loop import equal_states, small_network, small_sampler, state_of
from torch import nn
from torch.testing import assert_close

import wdpurify
from wdpurify import GradientPenalty, GroupSampler, PurifyRegularizer

ROOT = str(wdpurify.__path__[0])


class _Interrupt(BaseException):
    pass


class _At:
    """Raises at the n-th line (or instruction) of the library."""

    def __init__(self, number, *, opcodes):
        self.left, self.opcodes = number, opcodes

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(ROOT):
            return None
        frame.f_trace_opcodes = self.opcodes
        if event == ("opcode" if self.opcodes else "line"):
            self.left -= 1
            if self.left == 0:
                raise _Interrupt
        return self


def _made(tapped):
    torch.manual_seed(0)
    network = small_network(dropout=0.1)
    model = nn.Sequential(network.features, network.head)
    if tapped:
        purify = PurifyRegularizer.for_model(model, small_sampler(), critic_steps=1)
    else:
        purify = PurifyRegularizer(model[0], small_sampler(), feature_dim=6, critic_steps=1)
    return model, purify


def _pass(model, purify):
    images, labels = torch.rand(12, 3, 8, 8), torch.arange(12) % 4
    if purify.tap is not None:
        loss = purify.criterion(nn.CrossEntropyLoss())(model(images), labels)
    else:
        purify.critic_step()
        features = model[0](images)
        loss = nn.functional.cross_entropy(model[1](features), labels) + purify.loss(features)
    loss.backward()


def _attributes(model):
    """Every attribute of every module with its identity, and the entries of those that are dictionaries."""
    return [
        {name: (id(value), list(value.items()) if isinstance(value, dict) else None) for name, value in vars(part).items()}
        for part in model.modules()
    ]


def _interrupted(tapped, number, *, opcodes):
    """Whether an interrupt at this point was raised; asserts that the model is as it was."""
    model, purify = _made(tapped)
    before, buffers = _attributes(model), {name: value.clone() for name, value in model.named_buffers()}
    trace = sys.gettrace()
    sys.settrace(_At(number, opcodes=opcodes))
    try:
        purify.critic_step()
    except _Interrupt:
        raised = True
    else:
        raised = False
    finally:
        sys.settrace(trace)
    assert [each.keys() for each in _attributes(model)] == [each.keys() for each in before], number
    assert all(now[name][0] == was[name][0] for now, was in zip(_attributes(model), before, strict=True) for name in was)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    if raised:
        purify.optimizer_stepped()
        _pass(model, purify)  # and it trains on
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    return raised


def _points(tapped, opcodes, *, seed, count):
    """Some of all points of an auxiliary step, at random."""
    _, purify = _made(tapped)
    counting, trace = _At(10**9, opcodes=opcodes), sys.gettrace()
    sys.settrace(counting)
    try:
        purify.critic_step()
    finally:
        sys.settrace(trace)
    return random.Random(seed).sample(range(1, 10**9 - counting.left), count)


@pytest.mark.parametrize("tapped", [False, True])
@pytest.mark.parametrize("opcodes", [False, True])
def test_an_interrupt_at_any_point_leaves_the_model_as_it_was(tapped, opcodes):
    points = _points(tapped, opcodes, seed=0, count=40)
    assert sum(_interrupted(tapped, point, opcodes=opcodes) for point in points) > 30


@pytest.mark.slow
@pytest.mark.parametrize("tapped", [False, True])
@pytest.mark.parametrize("opcodes", [False, True])
def test_an_interrupt_at_many_points_leaves_the_model_as_it_was(tapped, opcodes):
    points = _points(tapped, opcodes, seed=1, count=250)
    assert sum(_interrupted(tapped, point, opcodes=opcodes) for point in points) > 200


SIGNALS = {
    "rows just drawn": (GroupSampler, "next_batch"),
    "in the auxiliary forward": (nn.Flatten, "forward"),
    "while the critic learns": (GradientPenalty, "points"),
    "critic updated once of twice": (GradientPenalty, "project_"),
}


@pytest.mark.parametrize(("kind", "method"), SIGNALS.values(), ids=SIGNALS)
def test_a_state_saved_by_a_signal_handler_is_that_from_before_the_step(kind, method, monkeypatch):
    def made():
        torch.manual_seed(0)
        network = small_network()
        optimizer = torch.optim.SGD(network.parameters(), 0.05)
        return network, PurifyRegularizer(network.features, small_sampler(), feature_dim=6, critic_lr=0.03), optimizer

    def step(run, number):
        network, purify, optimizer = run
        generator = torch.Generator().manual_seed(number)
        purify.critic_step()
        features = network.features(torch.rand((12, 3, 8, 8), generator=generator))
        (nn.functional.cross_entropy(network.head(features), torch.arange(12) % 4) + purify.loss(features)).backward()
        optimizer.step()
        optimizer.zero_grad()

    run, saved = made(), []
    for number in range(3):
        step(run, number)
    before = copy.deepcopy((run[0].state_dict(), run[1].state_dict()))
    real, calls = getattr(kind, method), []

    def handled(*arguments, **named):
        result = real(*arguments, **named)
        calls.append(1)
        if len(calls) == 1:
            saved.append(copy.deepcopy((run[0].state_dict(), run[1].state_dict())))
        return result

    monkeypatch.setattr(kind, method, handled)
    run[1].critic_step()
    monkeypatch.undo()
    ((model_state, state),) = saved
    assert equal_states(model_state, before[0])
    assert_close(state["critic"], before[1]["critic"], rtol=0, atol=0)
    assert str(state) == str(before[1])
    resumed = made()
    resumed[0].load_state_dict(model_state)
    resumed[1].load_state_dict(state)
    whole = made()
    for number in range(6):
        step(whole, number)
    for number in range(3, 6):
        step(resumed, number)
    assert equal_states(state_of(resumed[0]), state_of(whole[0]))
