"""Graphs that are compiled or made again: compiled autograd, a compiled step, reentrant checkpoints."""

import contextlib
import warnings

import pytest
import torch
from small_loop import equal_states, small_network, small_sampler, state_of
from torch import nn
from torch.utils.checkpoint import checkpoint

from wdpurify import BalancedStrength, PurifyRegularizer
from wdpurify.exceptions import PullNotAppliedWarning

#: torch's own warning, at any graph break and in compiled autograd.
GRAPH_BREAK = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


class _Model(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        torch.manual_seed(0)
        network = small_network()
        self.body = network.features if width == 6 else nn.Sequential(network.features, nn.Linear(6, width))
        self.head = network.head if width == 6 else nn.Linear(width, 4)

    def forward(self, images):
        return self.head(self.body(images))


def _made(*, tapped, strength=3.0, width=6):
    model = _Model(width)
    options = {"strength": BalancedStrength(strength, fade=0)}
    if tapped:
        return model, PurifyRegularizer.for_model(model, small_sampler(), **options)
    return model, PurifyRegularizer(model.body, small_sampler(), feature_dim=width, **options)


def _loss_of(model, purify, *, early=True, extract=None):
    if purify.tap is not None:
        criterion = purify.criterion(nn.CrossEntropyLoss())
        return lambda images, labels: criterion(model(images), labels)

    def loss_of(images, labels):
        purify.critic_step()
        features = (extract or model.body)(images)
        if early:
            term = purify.loss(features)
            return nn.functional.cross_entropy(model.head(features), labels) + term
        return nn.functional.cross_entropy(model.head(features), labels) + purify.loss(features)

    return loss_of


def _train(model, purify, loss_of, *, steps=8, backward=contextlib.nullcontext):
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        loss = loss_of(torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator))
        with backward():
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    metrics = purify.metrics()
    return state_of(model), metrics.gradient_ratio * metrics.coherence_excess


def _compiled_autograd():
    module = pytest.importorskip("torch._dynamo.compiled_autograd")
    if not hasattr(module, "_enable"):
        pytest.skip("this torch enables compiled autograd in another way")
    return module._enable(torch.compile(backend="eager"))


@GRAPH_BREAK
@pytest.mark.parametrize("width", [6, 100])
@pytest.mark.parametrize("tapped", [False, True])
def test_a_backward_pass_that_is_compiled_gives_the_same_weights(tapped, width):
    torch._dynamo.reset()
    made = _made(tapped=tapped, width=width)
    eager, _ = _train(*made, _loss_of(*made))
    made = _made(tapped=tapped, width=width)
    compiled, ratio = _train(*made, _loss_of(*made), backward=_compiled_autograd)
    assert ratio == pytest.approx(3.0, rel=0.3)
    assert equal_states(eager, compiled)


@GRAPH_BREAK
@pytest.mark.parametrize("width", [6, 100])
def test_a_compiled_step_pulls_where_the_term_comes_before_the_head(width):
    torch._dynamo.reset()
    made = _made(tapped=False, width=width)
    eager, _ = _train(*made, _loss_of(*made))
    made = _made(tapped=False, width=width)
    compiled, ratio = _train(*made, torch.compile(_loss_of(*made), backend="aot_eager"))
    assert ratio == pytest.approx(3.0, rel=0.3)
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)


@GRAPH_BREAK
def test_a_compiled_step_whose_term_comes_after_the_head_is_told_what_to_do():
    torch._dynamo.reset()
    made = _made(tapped=False)
    with pytest.warns(PullNotAppliedWarning, match=r"in a compiled step call `loss\(features\)` before the head"):
        _train(*made, torch.compile(_loss_of(*made, early=False), backend="aot_eager"))


def test_a_checkpoint_that_is_fed_by_images_with_a_gradient_loses_no_term_but_the_first():
    made = _made(tapped=False)
    body = made[0].body

    def reentrant(images):
        return checkpoint(body, images, use_reentrant=True)

    def fed(images):
        return reentrant(images.requires_grad_())

    model = made[0]
    options = {"strength": BalancedStrength(3.0, fade=0), "feature_dim": 6, "model": model}
    purify = PurifyRegularizer(reentrant, small_sampler(), **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")  # torch's, in the first step
        _, ratio = _train(model, purify, _loss_of(model, purify, extract=fed))
    assert ratio == pytest.approx(3.0, rel=0.3)
    resumed = PurifyRegularizer(reentrant, small_sampler(), **options)
    resumed.load_state_dict(purify.state_dict())
    assert _train(model, resumed, _loss_of(model, resumed, extract=fed), steps=1)[1] == pytest.approx(3.0, rel=0.3)
