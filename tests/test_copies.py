"""Copies of (model, regularizer, optimiser) train on like what they were copied from, each by itself."""

import copy
import pickle

import pytest
import torch
from small_loop import equal_states, small_network, small_sampler, state_of
from torch import nn

from wdpurify import PurifyRegularizer


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        network = small_network(dropout=0.2)
        self.body = network.features
        self.head = network.head

    def forward(self, images):
        return self.head(self.body(images))


def _explicit(model):
    return PurifyRegularizer(model.body, small_sampler(), feature_dim=6, every=2)


def _tapped(model):
    return PurifyRegularizer.for_model(model, small_sampler(), every=2)


def _train(run, steps):
    model, purify, optimizer = run
    criterion = purify.criterion(nn.CrossEntropyLoss()) if purify.tap else None
    for step in steps:
        torch.manual_seed(step)
        images, labels = torch.rand(12, 3, 8, 8), torch.randint(4, (12,))
        if criterion:
            loss = criterion(model(images), labels)
        else:
            purify.critic_step()
            features = model.body(images)
            loss = nn.functional.cross_entropy(model.head(features), labels) + purify.loss(features)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _made(make):
    torch.manual_seed(0)
    model = _Model()
    run = model, make(model), torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    _train(run, range(3))
    return run


def _end(run):
    return state_of(run[0]) | {f"critic.{name}": value for name, value in state_of(run[1].critic).items()}


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
@pytest.mark.parametrize("make", [_explicit, _tapped])
def test_a_copy_goes_on_as_the_original_does(make, order):
    run = _made(make)
    parts = copy.deepcopy([run[part] for part in order])
    copied = tuple(parts[order.index(part)] for part in range(3))
    _train(run, range(3, 7))
    assert not equal_states(_end(run), _end(copied))
    _train(copied, range(3, 7))
    assert equal_states(_end(run), _end(copied))
    assert run[1].sampler.state_dict() == copied[1].sampler.state_dict()
    assert PurifyRegularizer.of(copied[0] if make is _tapped else copied[0].body) is copied[1]


def test_steps_of_a_copy_are_not_taken_for_steps_of_the_original():
    run = _made(_tapped)
    copied = copy.deepcopy(run)
    before = run[1].state_dict()["ranks"][0]["loop.number"]
    _train(copied, range(3, 6))
    assert run[1].state_dict()["ranks"][0]["loop.number"] == before


def test_a_copy_of_a_subclass_has_its_own_attributes():
    class Noted(PurifyRegularizer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.model, self.note = arguments[0], ["a note"]

    noted = Noted(_Model().body, small_sampler(), feature_dim=6)
    copied = copy.deepcopy(noted)
    assert copied.note == noted.note
    assert copied.note is not noted.note
    assert copied.model is not noted.model
    assert PurifyRegularizer.of(copied.model) is copied


def test_a_regularizer_whose_extractor_is_a_plain_function_is_not_copied():
    network = small_network()
    purify = PurifyRegularizer(lambda images: network.features(images), small_sampler(), feature_dim=6, model=network)
    with pytest.raises(TypeError, match="`extract` is a plain function"):
        copy.deepcopy((network, purify))


def test_a_pickled_regularizer_is_refused_by_name():
    with pytest.raises(TypeError, match="save its `state_dict\\(\\)`"):
        pickle.dumps(_made(_explicit)[1])


def test_a_model_that_holds_its_regularizer_is_not_copied_but_told():
    model = _Model()
    model.purify = PurifyRegularizer.for_model(model, small_sampler())
    with pytest.raises(TypeError, match="keep the regularizer in a variable outside the model"):
        copy.deepcopy(model)


def test_a_copy_made_between_micro_batches_has_the_same_pull():
    run = _made(_tapped)
    model, purify, _ = run
    criterion = purify.criterion(nn.CrossEntropyLoss())
    purify.optimizer_stepped()  # of an iteration to act in
    images, labels = torch.rand(12, 3, 8, 8), torch.randint(4, (12,))
    criterion(model(images), labels).backward()
    copied = copy.deepcopy(run)
    gradients = []
    for each in (run, copied):
        each[2].zero_grad()
        torch.manual_seed(5)
        each[1].criterion(nn.CrossEntropyLoss())(each[0](images), labels).backward()
        gradients.append([parameter.grad.clone() for parameter in each[0].parameters()])
    assert all(map(torch.equal, *gradients))
