"""What counts as one iteration: an optimiser step, however many micro-batches, passes or closures led to it."""

import copy
import gc
import warnings
import weakref

import pytest
import torch
from small_loop import equal_states, small_network, small_sampler, state_of
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks
from torch.testing import assert_close

import wdpurify
from wdpurify import BalancedStrength, FixedStrength, OneSided, PurifyRegularizer


def _data(step, rows=12):
    generator = torch.Generator().manual_seed(step)
    return torch.rand((rows, 3, 8, 8), generator=generator), torch.randint(4, (rows,), generator=generator)


def _purified(network, **options):
    return PurifyRegularizer(network.features, small_sampler(), feature_dim=6, **options)


def _backward(network, purify, images, labels, divisor=1):
    purify.critic_step()
    features = network.features(images)
    loss = nn.functional.cross_entropy(network.head(features), labels) + purify.loss(features)
    (loss / divisor).backward()


def _accumulated(network, purify, micro_batches, steps=7, divide=True):
    optimizer = torch.optim.SGD(network.parameters(), 0.05 if divide else 0.05 / micro_batches)
    for step in range(steps):
        images, labels = _data(step)
        for part in range(micro_batches):
            rows = slice(part * 12 // micro_batches, (part + 1) * 12 // micro_batches)
            _backward(network, purify, images[rows], labels[rows], micro_batches if divide else 1)
        optimizer.step()
        optimizer.zero_grad()


OPTIONS = {
    "balanced": lambda: {"strength": BalancedStrength(4.0, fade=0.0), "every": 3},
    "every second": lambda: {"strength": BalancedStrength(1.0, fade=0.0), "every": 2},
    "fixed": lambda: {"strength": FixedStrength(0.5), "every": 3},
    "one-sided": lambda: {"strength": FixedStrength(0.5), "objective": OneSided(), "every": 3},
}


@pytest.mark.parametrize("divide", [True, False], ids=["divided", "summed"])
@pytest.mark.parametrize("micro_batches", [2, 3])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_micro_batches_do_what_one_batch_as_large_as_all_does(options, micro_batches, divide):
    whole = small_network(norm=False)
    parts, plain = copy.deepcopy(whole), copy.deepcopy(whole)
    purifiers = [_purified(network, critic_lr=2e-2, critic_steps=2, **options()) for network in (whole, parts)]
    _accumulated(whole, purifiers[0], 1)
    _accumulated(parts, purifiers[1], micro_batches, divide=divide)
    _accumulated(plain, _purified(plain, strength=0.0), 1)
    assert_close(state_of(parts), state_of(whole), rtol=1e-4, atol=1e-6)
    assert purifiers[1].sampler.state_dict() == purifiers[0].sampler.state_dict()
    moved = [(state_of(parts)[name] - value).abs().max() for name, value in state_of(plain).items()]
    assert max(moved) > 4e-5  # the term was there


def test_every_counts_optimiser_steps():
    network = small_network()
    purify = _purified(network, strength=0.0, every=3)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    changed = []
    for step in range(5):
        for _ in range(4):
            before = state_of(purify.critic)
            _backward(network, purify, *_data(step))
            changed.append(not equal_states(before, state_of(purify.critic)))
        optimizer.step()
        optimizer.zero_grad()
    assert [call for call, moved in enumerate(changed) if moved] == [0, 12]


def test_a_step_that_a_loss_scaler_skips_begins_no_iteration():
    network = small_network()
    purify = _purified(network, every=1, strength=0.0)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    drawn = []
    for step in range(4):
        purify.critic_step()
        features = network.features(_data(step)[0])
        loss = (features * (torch.inf if step == 2 else 1.0)).sum() + purify.loss(features)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        drawn.append(purify.sampler.state_dict()["drawn"])
    assert drawn == [1, 2, 3, 3]


class _SharpnessAware(torch.optim.Optimizer):
    """Climbs in a first step and descends in a second, from where it was and by a base optimiser of its own."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})
        self.base = torch.optim.SGD(self.param_groups, lr)

    @torch.no_grad()
    def climb(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["climb"] = 0.05 * parameter.grad
                parameter.add_(self.state[parameter]["climb"])
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(self.state[parameter]["climb"])
        self.base.step()
        self.zero_grad()


def test_both_passes_of_a_two_pass_optimiser_get_the_term_and_count_as_one():
    network = small_network()
    purify = _purified(network, every=1, strength=FixedStrength(1.0))
    optimizer = _SharpnessAware(network.parameters(), 0.05)
    values, drawn = [], []
    for step in range(4):
        for _ in range(2):
            purify.critic_step()
            features = network.features(_data(step)[0])
            term = purify.loss(features)
            values.append(term.item())
            (nn.functional.cross_entropy(network.head(features), _data(step)[1]) + term).backward()
            if _ == 0:
                optimizer.climb()
        optimizer.step()
        drawn.append(purify.sampler.state_dict()["drawn"])
    assert drawn[1:] == [drawn[0] + 1, drawn[0] + 2, drawn[0] + 3]
    assert purify.state_dict()["ranks"][0]["loop.number"] == 3
    assert all(value != 0 for value in values)


class _Recording(BalancedStrength):
    """Keeps the last observation apart."""

    def record(self, task_norm, weight):
        super().record(task_norm, weight)
        self.last = task_norm.item()


def test_passes_whose_gradients_were_cleared_do_not_count_as_accumulated():
    def task_norm(passes):
        network = small_network(norm=False)
        purify = _purified(network, strength=_Recording(0.5), every=1)
        optimizer = torch.optim.SGD(network.parameters(), 0.0)
        for step in range(3):
            for _ in range(passes):
                optimizer.zero_grad()
                _backward(network, purify, *_data(step))
            optimizer.step()
        purify.critic_step()
        return purify.strength.last

    torch.manual_seed(0)
    once = task_norm(1)
    torch.manual_seed(0)
    assert_close(task_norm(3), once)


def test_a_closure_evaluated_many_times_is_one_iteration():
    network = small_network()
    purify = _purified(network, every=1)
    optimizer = torch.optim.LBFGS(network.parameters(), lr=0.1, max_iter=4)
    drawn = []
    for step in range(3):

        def closure(step=step):
            optimizer.zero_grad()
            _backward(network, purify, *_data(step))
            return torch.tensor(0.0)

        optimizer.step(closure)
        drawn.append(purify.sampler.state_dict()["drawn"])
    assert drawn[1:] == [drawn[0] + 1, drawn[0] + 2]
    assert purify.state_dict()["ranks"][0]["loop.number"] == 2


def test_two_optimisers_of_one_model_make_one_iteration_and_those_of_other_models_none():
    network, other = small_network(), nn.Linear(2, 2)
    purify = _purified(network, every=1)
    optimizers = [torch.optim.SGD(part.parameters(), 0.05) for part in (network.features, network.head)]
    foreign = torch.optim.SGD(other.parameters(), 0.05)
    for step in range(3):
        for _ in range(2):
            _backward(network, purify, *_data(step))
            other(torch.ones(1, 2)).sum().backward()
            foreign.step()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert purify.sampler.state_dict()["drawn"] == 3


def test_a_compiled_optimiser_step_is_seen():
    network = small_network()
    purify = _purified(network, every=1)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    step_once = torch.compile(optimizer.step, backend="eager")
    for step in range(3):
        for _ in range(2):
            _backward(network, purify, *_data(step))
        step_once()
        optimizer.zero_grad()
    assert purify.sampler.state_dict()["drawn"] == 3


def _updated_by_hand(announce=False, steps=70):
    """Iterations counted in a loop without an optimiser."""
    network = small_network()
    purify = _purified(network, every=1)
    for step in range(steps):
        _backward(network, purify, *_data(step))
        for parameter in network.parameters():
            parameter.data.add_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.data, alpha=-0.05)
            if parameter.grad is not None:
                parameter.grad.zero_()
        if announce:
            purify.optimizer_stepped()
    return purify.sampler.state_dict()["drawn"]


def test_an_optimiser_that_nobody_hears_is_named_and_can_be_announced():
    with pytest.warns(wdpurify.exceptions.PullNotAppliedWarning, match="optimizer_stepped"):
        assert _updated_by_hand() == 70 - wdpurify._iteration.LONGEST_ACCUMULATION + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _updated_by_hand(announce=True) == 70


def test_passes_that_only_measure_are_iterations():
    purify = _purified(small_network(), every=1, strength=0.0)
    for _ in range(5):
        purify.critic_step()
    assert purify.sampler.state_dict()["drawn"] == 5


def test_one_hook_serves_all_regularizers_and_keeps_none_alive():
    network = small_network()
    purify = _purified(network)
    hooks = len(_global_optimizer_post_hooks)
    second = _purified(network)
    assert len(_global_optimizer_post_hooks) == hooks
    gone = weakref.ref(second)
    del second
    gc.collect()
    assert gone() is None
    assert PurifyRegularizer.of(network.features) is purify


def test_a_regularizer_may_be_collected_while_an_optimiser_steps():
    network = small_network()
    holder = {"purify": _purified(network)}
    optimizer = torch.optim.SGD(network.parameters(), 0.05)

    def collect(*_):
        holder.clear()
        gc.collect()

    handle = optimizer.register_step_post_hook(collect)
    network.head(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    handle.remove()
    assert len(holder) == 0


def test_a_state_saved_between_micro_batches_and_steps_goes_on_as_if_nothing_had_happened():
    network = small_network(norm=False)
    twin = copy.deepcopy(network)
    _accumulated(network, _purified(network), 2, steps=8)
    purify = _purified(twin)
    optimizer = torch.optim.SGD(twin.parameters(), 0.05)
    for step in range(8):
        images, labels = _data(step)
        for rows in (slice(0, 6), slice(6, 12)):
            _backward(twin, purify, images[rows], labels[rows], 2)
        optimizer.step()
        optimizer.zero_grad()
        state = purify.state_dict()
        purify = _purified(twin)
        purify.load_state_dict(state)
    assert equal_states(state_of(twin), state_of(network))


def test_a_criterion_that_hardly_weighs_the_term_does_not_blow_up_the_balance():
    strength = BalancedStrength(1.0, fade=0.0)
    for weight in (1.0, 1.0, 1e-4):  # mixup: the first of two criteria times a coefficient near 0
        strength.record(torch.tensor(2.0 / weight), torch.tensor(weight))
    assert strength.task_norm < 2.1


def test_the_regularizer_is_found_from_its_model():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4))
    with pytest.raises(LookupError, match="has no regularizers"):
        PurifyRegularizer.of(model)
    purify = PurifyRegularizer.for_model(model, small_sampler())
    assert PurifyRegularizer.of(model) is purify
    assert PurifyRegularizer.of(torch.compile(model, backend="eager")) is purify
    second = PurifyRegularizer.for_model(model, small_sampler())
    with pytest.raises(LookupError, match="has 2 regularizers"):
        PurifyRegularizer.of(model)
    second.remove()
    assert PurifyRegularizer.of(model) is purify


def test_term_is_step_and_loss_in_one_and_zero_where_nothing_was_caught():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4))
    purify = PurifyRegularizer.for_model(model, small_sampler(), strength=FixedStrength(1.0))
    assert purify.loss() == 0
    loss = model(_data(0)[0]).square().mean()
    with torch.no_grad():
        assert purify.loss() == 0
    term = purify.loss()
    assert term.requires_grad
    assert term != 0
    (loss + term).backward()
    assert purify.loss() == 0
    with pytest.raises(ValueError, match=r"`loss\(\)` needs captured features"):
        _purified(small_network()).loss()
