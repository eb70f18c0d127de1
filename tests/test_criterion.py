"""The wrapped criterion in the places where criteria live: a function, a module, a module inside another."""

import copy
import inspect
import io

import pytest
import torch
from small_loop import small_sampler
from torch import nn

from wdpurify import FixedStrength, GroupSampler, PurifyRegularizer


class _WithCriterion(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU()), nn.Linear(6, 4)
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(4))

    def forward(self, images):
        return self.classifier(self.body(images))


def _purified():
    model = _WithCriterion()
    keys = list(model.state_dict())
    purify = PurifyRegularizer.for_model(model, small_sampler(), strength=FixedStrength(1.0))
    model.criterion = purify.criterion(model.criterion)
    return model, purify, keys


def _gradient(model, loss):
    return torch.autograd.grad(loss, model.body[1].weight, retain_graph=True)[0]


def test_it_takes_the_place_of_a_module_and_leaves_keys_and_modes_alone():
    model, _, keys = _purified()
    assert list(model.state_dict()) == keys
    assert [name for name, _ in model.named_buffers()] == ["criterion.weight"]
    model.eval()
    assert not model.criterion._inner.training
    model.train()
    assert model.criterion._inner.training
    model.double()
    assert model.criterion._inner.weight.dtype == torch.float64
    model.load_state_dict(model.state_dict())


def test_a_saved_model_holds_the_inner_criterion():
    model, _, _ = _purified()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert type(loaded.criterion) is nn.CrossEntropyLoss
    images, labels = torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 2])
    with torch.no_grad():
        assert torch.equal(loaded.criterion(loaded(images), labels), model.criterion(model(images), labels))


def test_every_result_of_a_pass_carries_the_term_and_a_copy_adds_none():
    model, _, _ = _purified()
    images, labels = torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 2])
    scores = model(images)
    losses = [criterion(scores, labels) for criterion in (model.criterion, model.criterion, model.criterion._inner)]
    *carrying, plain = [_gradient(model, loss) for loss in losses]
    assert not torch.equal(carrying[0], plain)
    assert torch.equal(carrying[0], carrying[1])
    twin = copy.deepcopy(model)
    scores = twin(images)
    assert torch.equal(*(_gradient(twin, criterion(scores, labels)) for criterion in (twin.criterion, twin.criterion._inner)))


def test_loops_that_scale_in_place_sum_or_weigh_the_loss_get_the_term_once():
    model, purify, _ = _purified()
    images, labels = torch.rand(6, 3, 8, 8), torch.randint(4, (6,))
    per_sample = purify.criterion(nn.CrossEntropyLoss(reduction="none"))
    losses = per_sample(model(images), labels)
    assert losses.shape == (6,)
    losses /= 2
    losses.mean().backward()
    gradient = model.body[1].weight.grad.clone()
    model.zero_grad()
    nn.functional.cross_entropy(model(images), labels).div(2).backward()
    assert not torch.equal(gradient, model.body[1].weight.grad)


def test_a_criterion_whose_forward_is_exchanged_carries_the_term_once():
    model, _, _ = _purified()
    scores, labels = model(torch.rand(3, 3, 8, 8)), torch.tensor([0, 1, 2])
    whole, plain = model.criterion(scores, labels), model.criterion._inner(scores, labels)
    known = model.criterion.forward
    model.criterion.forward = lambda *arguments: 0.5 * known(*arguments)  # as Accelerate does under mixed precision
    torch.testing.assert_close(model.criterion(scores, labels), whole - 0.5 * plain)


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), nn.functional.cross_entropy])
def test_a_criterion_carries_a_term_once(criterion):
    model = _WithCriterion()
    purify = PurifyRegularizer.for_model(model, small_sampler(), strength=FixedStrength(1.0))
    wrapped = purify.criterion(criterion)
    assert purify.criterion(wrapped) is wrapped
    images, labels = torch.rand(60, 3, 8, 8), [0, 1] * 30
    for seed in range(2):
        again = PurifyRegularizer.for_model(model, GroupSampler(images, labels, batch_size=16, seed=seed))
        if seed == 0:
            wrapped = again.criterion(wrapped)
            continue
        with pytest.raises(ValueError, match="Make the regularizer and its criterion once, before the loop"):
            again.criterion(wrapped)
    of_other_images = PurifyRegularizer.for_model(model, GroupSampler(images.clone(), labels, batch_size=16))
    wrapped = of_other_images.criterion(wrapped)
    of_other_images.remove()
    PurifyRegularizer.for_model(model, of_other_images.sampler).criterion(wrapped)
    of_another_label = PurifyRegularizer.for_model(model, small_sampler(fixed=0))
    of_another_layer = PurifyRegularizer.for_model(model, small_sampler(), layer="body.2")
    both = of_another_layer.criterion(of_another_label.criterion(wrapped))
    assert both(model(torch.rand(3, 3, 8, 8)), torch.tensor([0, 1, 2])).requires_grad
    PurifyRegularizer.for_model(_WithCriterion(), small_sampler()).criterion(wrapped)


def test_it_is_of_the_criterions_class_and_bears_its_name():
    model, purify, _ = _purified()
    assert isinstance(model.criterion, nn.CrossEntropyLoss)
    assert model.criterion._get_name() == "CrossEntropyLoss"
    assert repr(model.criterion) == repr(model.criterion._inner)
    model.criterion.label_smoothing = 0.1
    assert model.criterion._inner.label_smoothing == 0.1
    wrapped = purify.criterion(nn.functional.cross_entropy)
    assert wrapped.__name__ == "cross_entropy"
    assert inspect.signature(wrapped) == inspect.signature(nn.functional.cross_entropy)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, at any graph break
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_compiled_function_may_hold_the_criterion(strength):
    torch._dynamo.reset()
    model = _WithCriterion()
    purify = PurifyRegularizer.for_model(model, small_sampler(), strength=FixedStrength(strength), every=1)
    criterion = purify.criterion(nn.CrossEntropyLoss())

    @torch.compile(backend="aot_eager")
    def loss_of(images, labels):
        return criterion(model(images), labels)

    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(3):
        loss_of(torch.rand(6, 3, 8, 8), torch.randint(4, (6,))).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert purify.sampler.state_dict()["drawn"] == 3
    assert (purify.metrics().gradient_ratio > 0) == (strength > 0)
