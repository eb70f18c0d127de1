"""States saved between iterations and between micro-batches go on bit for bit, whatever kind of loop saves them."""

import copy

import pytest
import torch
from small_loop import equal_states, small_network, small_sampler, state_of
from torch import nn

from wdpurify import FixedStrength, PurifyRegularizer
from wdpurify.pull.task_gradient import TaskGradients


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        network = small_network(norm=False)
        self.features, self.head = network.features, network.head

    def forward(self, images):
        return self.head(self.features(images))


def _data(step):
    generator = torch.Generator().manual_seed(step)
    return torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator)


def _made(every):
    model = _Model()
    purify = PurifyRegularizer.for_model(model, small_sampler(), critic_lr=3e-2, every=every)
    return model, purify, torch.optim.AdamW(model.parameters(), 1e-2)


def _backward(run, step):
    images, labels = _data(step)
    run[1].criterion(nn.CrossEntropyLoss())(run[0](images), labels).backward()


def _skipping(run, step):
    """A step that a loss scaler skips in every third iteration."""
    for part in range(2):
        _backward(run, 10 * step + part)
    if step % 3 != 1:
        run[2].step()
    run[2].zero_grad()


def _sharpness_aware(run, step):
    _backward(run, step)
    with torch.no_grad():
        climbs = [0.05 * parameter.grad for parameter in run[0].parameters()]
        for parameter, climb in zip(run[0].parameters(), climbs, strict=True):
            parameter.add_(climb)
    run[2].zero_grad()
    _backward(run, step)
    with torch.no_grad():
        for parameter, climb in zip(run[0].parameters(), climbs, strict=True):
            parameter.sub_(climb)
    run[2].step()
    run[2].zero_grad()


def _least_squares(run, step):
    """LBFGS-like: several passes, each at weights of its own, for one step."""

    def closure():
        run[2].zero_grad()
        _backward(run, step)
        return torch.zeros(())

    for _ in range(2):
        closure()
    run[2].step()
    run[2].zero_grad()


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("loop", [_skipping, _sharpness_aware, _least_squares])
@pytest.mark.parametrize("saved", [0, 1, 2, 4])
def test_a_state_saved_between_iterations_goes_on_bit_for_bit(loop, every, saved):
    whole, first, resumed = _made(every), _made(every), _made(every)
    for step in range(7):
        loop(whole, step)
    for step in range(saved):
        loop(first, step)
    for there, here in zip(resumed, first, strict=True):
        there.load_state_dict(copy.deepcopy(here.state_dict()))
    for step in range(saved, 7):
        loop(resumed, step)
    assert equal_states(state_of(resumed[0]), state_of(whole[0]))
    assert equal_states(state_of(resumed[1].critic), state_of(whole[1].critic))


def _accumulated_by_hand(run, step, part):
    """One of two micro-batches whose gradients `autograd.grad` returns."""
    if part == 0:
        run[2].zero_grad()
    images, labels = _data(10 * step + part)
    loss = run[1].criterion(nn.CrossEntropyLoss())(run[0](images), labels)
    parameters = list(run[0].parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    if part == 1:
        run[2].step()


def test_gradients_accumulated_by_hand_go_on_from_between_two_micro_batches():
    whole, resumed = _made(1), _made(1)
    for step in range(12):
        for part in range(2):
            _accumulated_by_hand(whole, step, part)
            _accumulated_by_hand(resumed, step, part)
            if (step, part) == (8, 0):
                first, resumed = resumed, _made(1)
                for there, here in zip(resumed, first, strict=True):
                    there.load_state_dict(copy.deepcopy(here.state_dict()))
                for there, here in zip(resumed[0].parameters(), first[0].parameters(), strict=True):
                    there.grad = here.grad.clone()
    assert equal_states(state_of(resumed[0]), state_of(whole[0]))
    assert equal_states(state_of(resumed[1].critic), state_of(whole[1].critic))


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_a_state_saved_between_critic_step_and_loss_remembers_the_first(strength):
    def made():
        network = small_network(norm=False).train(strength == 0)  # in evaluation mode a term needs `critic_step()`
        purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, strength=FixedStrength(strength))
        return network, purify

    runs = made(), made()
    runs[0][1].critic_step()
    for there, here in zip(runs[1], runs[0], strict=True):
        there.load_state_dict(copy.deepcopy(here.state_dict()))
    terms = [purify.loss(network.features(_data(0)[0])) for network, purify in runs]
    assert torch.equal(*terms)
    assert bool(terms[0] != 0) == (strength > 0)
    assert equal_states(state_of(runs[0][1].critic), state_of(runs[1][1].critic))


def test_an_iteration_without_a_backward_pass_keeps_its_place_among_the_others():
    """As in a loop that filters a loss out and steps nevertheless."""
    first, resumed = TaskGradients(6, every=3), TaskGradients(6, every=3)
    for has_gradient in (True, False):
        if has_gradient:
            first.accumulated.add_weight(torch.ones(()), first=True)
            first.accumulated.add_norm(torch.ones(()), None, first.nothing)
        first.end()
    resumed.load_state_dict(first.state_dict())
    assert torch.equal(resumed.pop_ended().nan_to_num(7.0), first.pop_ended().nan_to_num(7.0))
