"""Gradients that are only asked for, or asked for early, are no backward passes of the training."""

import pytest
import torch
from small_loop import equal_states, small_sampler, state_of
from torch import nn
from torch.testing import assert_close

from wdpurify import BalancedStrength, FixedStrength, PurifyRegularizer
from wdpurify.exceptions import PullNotAppliedWarning


def _model(*, norm=True):
    torch.manual_seed(0)
    body = [
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 6),
    ]
    return nn.Sequential(nn.Sequential(*body), nn.Linear(6, 4))


def _data(step):
    generator = torch.Generator().manual_seed(step)
    return torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator)


def _ask_once(model, loss, images):
    torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)


def _ask_three_times(model, loss, images):
    for _ in range(3):
        torch.autograd.grad(loss, model[0][0].weight, retain_graph=True)


def _ask_for_the_images(model, loss, images):
    torch.autograd.grad(loss, images, retain_graph=True)


def _train(ask, *, steps=6, **options):
    model = _model()
    purify = PurifyRegularizer.for_model(model, small_sampler(), **options)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(steps):
        images, labels = _data(step)
        images.requires_grad_()
        loss = criterion(model(images), labels)
        if ask is not None:
            ask(model, loss, images)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, purify


@pytest.mark.parametrize("ask", [_ask_once, _ask_three_times, _ask_for_the_images])
def test_a_gradient_that_is_only_asked_for_changes_neither_figures_nor_weights(ask):
    (plain, expected), (asked, purify) = (_train(each, strength=BalancedStrength(2.0, fade=0.0)) for each in (None, ask))
    assert equal_states(state_of(asked), state_of(plain))
    assert_close(tuple(purify.metrics()), tuple(expected.metrics()), rtol=0, atol=0, equal_nan=True)
    assert expected.metrics().gradient_ratio > 0


def test_a_loop_that_trains_by_asked_for_gradients_alone_has_a_balanced_pull():
    model = _model()
    purify = PurifyRegularizer.for_model(model, small_sampler(), strength=BalancedStrength(1.0, fade=0.0))
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(4):
        images, labels = _data(step)
        gradients = torch.autograd.grad(criterion(model(images), labels), list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    assert purify.metrics().gradient_ratio > 0


def test_a_batch_of_gradients_has_the_pull_in_each_by_its_own_factor():
    model = _model(norm=False)
    purify = PurifyRegularizer.for_model(model, small_sampler(), strength=FixedStrength(1.0))
    criterion = purify.criterion(nn.CrossEntropyLoss(reduction="none"))
    images, labels = _data(0)
    losses = criterion(model(images), labels)[:2]
    weight = model[0][0].weight
    (batched,) = torch.autograd.grad(losses, weight, torch.eye(2), retain_graph=True, is_grads_batched=True)
    single = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses]
    assert_close(batched, torch.stack(single))
    bare = nn.CrossEntropyLoss(reduction="none")(model(images), labels)[0]
    assert (single[0] - torch.autograd.grad(bare, weight)[0]).abs().max() > 1e-5  # the pull is in it


def test_a_balanced_strength_that_sees_nothing_but_batches_of_gradients_is_named():
    model = _model()
    purify = PurifyRegularizer.for_model(model, small_sampler())
    criterion = purify.criterion(nn.CrossEntropyLoss(reduction="none"))
    images, labels = _data(0)

    def steps():
        for _ in range(3):
            losses = criterion(model(images), labels)[:2]
            torch.autograd.grad(losses, model[0][0].weight, torch.eye(2), is_grads_batched=True)
            purify.optimizer_stepped()

    with pytest.warns(PullNotAppliedWarning, match="one vectorised call"):
        steps()


@pytest.mark.parametrize("keep", [{"create_graph": True}, {"retain_graph": True}])
def test_a_gradient_of_the_inputs_before_the_criterion_does_not_take_the_term_away(keep):
    weights = {}
    for strength in (0.0, 0.5, None):
        model = _model()
        criterion = nn.CrossEntropyLoss()
        if strength is not None:
            criterion = PurifyRegularizer.for_model(model, small_sampler(), strength=strength).criterion(criterion)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for step in range(5):
            images, labels = _data(step)
            images.requires_grad_()
            scores = model(images)
            (saliency,) = torch.autograd.grad(scores.sum(), images, **keep)
            penalty = saliency.square().mean() if "create_graph" in keep else 0.0
            (criterion(scores, labels) + penalty).backward()
            optimizer.step()
            optimizer.zero_grad()
        weights[strength] = state_of(model)
    assert equal_states(weights[0.0], weights[None])
    assert not equal_states(weights[0.5], weights[None])


class _Teacher(nn.Module):
    """Calls its classifier twice in one forward, the last time for a target from the same weights."""

    def __init__(self):
        super().__init__()
        self.body, self.head = _model()[0], nn.Linear(6, 4)

    def forward(self, images):
        scores = self.head(self.body(images))
        with torch.no_grad():
            self.head(self.body(images + 0.01))
        return scores


def test_a_last_call_without_a_graph_does_not_take_the_pull_away():
    weights = []
    for strength in (0.0, 1.0):
        model = _Teacher()
        criterion = PurifyRegularizer.for_model(model, small_sampler(), layer="head", strength=strength).criterion(
            nn.CrossEntropyLoss()
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for step in range(4):
            images, labels = _data(step)
            criterion(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append(state_of(model.body))
    assert not equal_states(*weights)
