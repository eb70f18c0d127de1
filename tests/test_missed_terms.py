"""Loops that come past the term: trained by losses that do not carry it, or asking for it at the wrong time. They are told."""

import copy
import math
import warnings

import pytest
import torch
from small_loop import equal_states, small_network, small_sampler, state_of
from torch import nn

from wdpurify import FixedStrength, OneSided, PurifyRegularizer
from wdpurify._diagnostics import BARE_STEPS
from wdpurify.exceptions import PullNotAppliedWarning

#: Steps so small that they move no groups, which has a warning of its own.
SMALL_STEPS = pytest.mark.filterwarnings("ignore::wdpurify.exceptions.GroupsApartWarning")


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU()), nn.Linear(6, 4)

    def forward(self, images):
        return self.classifier(self.body(images))


class _Loss:
    """A loss with methods, as those of WILDS are: no module, and not called by itself alone."""

    def __init__(self, loss_fn):
        self.loss_fn = loss_fn

    def compute(self, scores, labels):
        return self.loss_fn(scores, labels)

    def __call__(self, scores, labels):
        return self.compute(scores, labels)


def _steps(model, loss_of, count, *, training=True):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for step in range(count):
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator)
        model.train(training)
        optimizer.zero_grad()
        loss_of(model(images), labels).backward()
        optimizer.step()


def _explicit():
    """A network whose features are in sight, its regularizer and its optimiser."""
    network = small_network()
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, strength=FixedStrength(1.0))
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    return network, purify, optimizer


def _in_the_right_order(network, purify, optimizer, images):
    purify.critic_step()
    features = network.features(images)
    loss = network.head(features).square().sum() + purify.loss(features)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _after_backward(network, purify, optimizer, images):
    features = network.features(images)
    loss = network.head(features).square().sum() + purify.loss(features)
    loss.backward()
    purify.critic_step()
    optimizer.step()
    optimizer.zero_grad()


def _never(network, purify, optimizer, images):
    features = network.features(images)
    (network.head(features).square().sum() + purify.loss(features)).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("loop", [_after_backward, _never])
def test_a_critic_step_that_comes_late_or_never_gives_the_same_weights(loop):
    weights = []
    for order in (_in_the_right_order, loop):
        torch.manual_seed(0)
        network, purify, optimizer = _explicit()
        for step in range(8):
            order(network, purify, optimizer, torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(step)))
        assert purify.metrics().gradient_ratio > 0
        assert purify.sampler.state_dict()["drawn"] == 8
        weights.append(state_of(network))
    assert equal_states(*weights)


def test_one_critic_step_for_the_micro_batches_of_an_iteration_is_enough():
    network, purify, optimizer = _explicit()
    for _ in range(4):
        purify.critic_step()
        for _ in range(3):
            features = network.features(torch.rand(12, 3, 8, 8))
            (network.head(features).square().sum() + purify.loss(features)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert purify.metrics().gradient_ratio > 0


def test_a_method_of_the_wrapped_criterion_is_named_and_the_innermost_one_purifies():
    model = _Model()
    purify = PurifyRegularizer.for_model(model, small_sampler(), strength=FixedStrength(1.0))
    outer = purify.criterion(_Loss(nn.CrossEntropyLoss()))
    with pytest.warns(PullNotAppliedWarning, match=f"{BARE_STEPS} steps by losses without the purify term.*innermost"):
        _steps(model, outer.compute, BARE_STEPS)
    inner = _Loss(nn.CrossEntropyLoss())
    inner.loss_fn = purify.criterion(inner.loss_fn)
    _steps(model, inner.compute, 3)
    assert purify.metrics().gradient_ratio > 0


def test_fine_tuning_in_eval_mode_is_named():
    model = _Model()
    purify = PurifyRegularizer.for_model(model, small_sampler())
    with pytest.warns(PullNotAppliedWarning, match="A layer in eval mode is passed by"):
        _steps(model, purify.criterion(nn.CrossEntropyLoss()), BARE_STEPS, training=False)


@SMALL_STEPS
def test_a_warm_up_and_evaluations_between_steps_are_no_fault():
    model = _Model()
    purify = PurifyRegularizer.for_model(model, small_sampler())
    plain, criterion = nn.CrossEntropyLoss(), purify.criterion(nn.CrossEntropyLoss())
    for _ in range(3):
        _steps(model, plain, BARE_STEPS - 1)
        _steps(model, criterion, 1)

    def evaluated_first(scores, labels):
        with torch.no_grad():
            model.eval()(torch.rand(4, 3, 8, 8))
        model(torch.rand(4, 3, 8, 8))  # with a graph that nobody goes back through
        model.train()
        return criterion(scores, labels)

    _steps(model, evaluated_first, BARE_STEPS + 1)
    assert purify.metrics().gradient_ratio >= 0


def test_features_in_the_users_hands_are_no_fault_of_a_tap():
    model = _Model()
    purify = PurifyRegularizer.for_model(model, small_sampler())
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    for _ in range(BARE_STEPS + 1):
        purify.critic_step()
        features = model.body(torch.rand(4, 3, 8, 8))
        (model.classifier(features).square().sum() + purify.loss(features)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert purify.metrics().gradient_ratio >= 0


def test_a_compiled_model_that_is_trained_past_the_term_is_named():
    model = _Model()
    purify = PurifyRegularizer.for_model(model, small_sampler())
    with pytest.warns(PullNotAppliedWarning):
        _steps(torch.compile(model, backend="aot_eager"), nn.CrossEntropyLoss(), BARE_STEPS)
    assert purify.metrics().strength > 0


def test_a_warm_up_without_the_term_does_not_hide_a_wrong_model_later():
    model = _Model()
    purify = PurifyRegularizer.for_model(model, small_sampler())
    criterion = purify.criterion(nn.CrossEntropyLoss())
    with pytest.warns(PullNotAppliedWarning):
        _steps(model, nn.CrossEntropyLoss(), BARE_STEPS)
    with pytest.warns(PullNotAppliedWarning, match="Train the very model"):
        _steps(copy.deepcopy(model), criterion, 8)


def test_a_loss_without_the_term_before_the_one_with_it_costs_no_pull():
    model = _Model()
    purify = PurifyRegularizer.for_model(model, small_sampler(), strength=FixedStrength(1.0))
    criterion, plain = purify.criterion(nn.CrossEntropyLoss()), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    for _ in range(8):  # FixMatch and the like
        images = torch.rand(6, 3, 8, 8)
        with torch.no_grad():
            labels = model.eval()(images).argmax(1)
        model.train()
        optimizer.zero_grad()
        plain(model(images + 0.1), labels).backward()
        criterion(model(images), labels).backward()
        optimizer.step()
    assert purify.sampler.state_dict()["drawn"] == 8
    assert purify.metrics().gradient_ratio > 0


@SMALL_STEPS
def test_watching_and_a_second_regularizer_are_no_fault():
    model = _Model()
    watched = PurifyRegularizer.for_model(model, small_sampler(), strength=0.0)

    def watching(scores, labels):
        watched.critic_step()
        return nn.functional.cross_entropy(scores, labels)

    _steps(model, watching, BARE_STEPS + 1)
    watched.remove()
    idle, acting = (PurifyRegularizer.for_model(model, small_sampler()) for _ in range(2))
    _steps(model, acting.criterion(nn.CrossEntropyLoss()), BARE_STEPS + 1)
    assert acting.metrics().gradient_ratio >= 0
    assert math.isnan(idle.metrics().gradient_ratio)


@pytest.mark.parametrize("discarded", [False, True])
def test_a_pull_that_no_backward_pass_has_come_to_is_not_told_of(discarded):
    network, purify, optimizer = _explicit()
    for step in range(8):
        purify.critic_step()
        features = network.features(torch.rand(12, 3, 8, 8))
        loss = network.head(features).square().sum()
        if step < 4:
            loss = loss + purify.loss(features)
        elif discarded:
            purify.loss(features)
        if step == 4:
            assert purify.metrics().gradient_ratio > 0
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert purify.metrics().gradient_ratio == 0.0


def test_a_validation_with_a_graph_is_no_iteration():
    network, purify, optimizer = _explicit()
    _in_the_right_order(network, purify, optimizer, torch.rand(12, 3, 8, 8))
    network.eval()
    assert purify.loss(network.features(torch.rand(12, 3, 8, 8))) == 0
    assert purify.metrics().gradient_ratio > 0


def test_a_loop_past_the_term_holds_nothing_of_its_steps():
    model = _Model()
    purify = PurifyRegularizer.for_model(model, small_sampler())
    _steps(model, nn.CrossEntropyLoss(), 5)
    hook = purify.tap._hook
    assert hook.caught is None
    for _ in range(50):
        model(torch.rand(6, 3, 8, 8))  # with a graph, and no backward pass
    assert len(hook.caught._features) <= 3
    assert len(hook.caught._projected) <= 3
    for _ in range(50):  # by hand, which no optimiser announces
        model(torch.rand(6, 3, 8, 8)).sum().backward()
    assert len(hook.caught._features) <= 3
    assert len(hook.caught._projected) <= 3


def _plain_steps(network, optimizer, count, before=lambda: None):
    for _ in range(count):
        before()
        network.head(network.features(torch.rand(12, 3, 8, 8))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("called", [False, True], ids=["nothing is called", "critic_step alone"])
def test_a_regularizer_that_was_made_and_whose_loss_is_never_called_is_named(called):
    network, purify, optimizer = _explicit()
    before = purify.critic_step if called else lambda: None
    _plain_steps(network, optimizer, BARE_STEPS - 1, before)
    with pytest.warns(PullNotAppliedWarning, match=f"{BARE_STEPS} steps without a call of `loss.features.`.*Add `purify.loss"):
        _plain_steps(network, optimizer, 1, before)


def test_a_loss_that_is_forgotten_is_the_first_cause_named():
    network = small_network()
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    with pytest.warns(PullNotAppliedWarning, match="^`loss.features.` is not added to the loss"):
        _plain_steps(network, optimizer, 8, purify.critic_step)


def test_a_warm_up_watching_a_removed_one_and_a_second_one_are_no_fault_of_the_explicit_form():
    network, purify, optimizer = _explicit()
    _plain_steps(network, optimizer, BARE_STEPS - 1)
    _in_the_right_order(network, purify, optimizer, torch.rand(12, 3, 8, 8))
    _plain_steps(network, optimizer, BARE_STEPS - 2)
    second = PurifyRegularizer(network.features, small_sampler(), feature_dim=6)
    _plain_steps(network, optimizer, BARE_STEPS)
    second.remove()
    purify.remove()
    _plain_steps(network, optimizer, BARE_STEPS)
    watched = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, strength=0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _plain_steps(network, optimizer, BARE_STEPS, watched.critic_step)
    assert caught == []
    assert watched.metrics().separation != 0


def _steps_of_a_copy(purify, network):
    """Steps as Fish makes them: each trains a fresh copy, whose weights go back afterwards. Returns whether they changed."""
    before = state_of(network)
    for step in range(3):
        inner = copy.deepcopy(network)
        optimizer = torch.optim.SGD(inner.parameters(), 0.01)
        features = inner.features(torch.rand((12, 3, 8, 8), generator=torch.Generator().manual_seed(step)))
        (0 * inner.head(features).square().sum() + purify.loss(features)).backward()
        optimizer.step()
        network.load_state_dict(inner.state_dict())
        purify.optimizer_stepped()
    after = state_of(network)
    return any(not torch.equal(before[name], after[name]) for name, _ in network.named_parameters())


@pytest.mark.parametrize("tapped", [False, True])
def test_a_copy_at_each_step_would_lose_the_pull_and_the_pull_on_task_features_moves_it(tapped):
    network = small_network()
    network.forward = lambda images: network.head(network.features(images))
    purify = (
        PurifyRegularizer.for_model(network, small_sampler(), strength=FixedStrength(1.0))
        if tapped
        else PurifyRegularizer(network.features, small_sampler(), model=network, strength=FixedStrength(1.0))
    )
    with pytest.warns(PullNotAppliedWarning, match=r"ran with other parameters than its own.*objective=OneSided"):
        assert not _steps_of_a_copy(purify, network)
    assert all(parameter.grad is None for parameter in network.parameters())
    network = small_network()
    options = {"model": network, "objective": OneSided(), "strength": FixedStrength(1.0)}
    assert _steps_of_a_copy(PurifyRegularizer(network.features, small_sampler(), **options), network)
