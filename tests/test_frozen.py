"""Frozen and partly frozen models, middle layers, and what the plugin leaves behind in a model that is exported."""

import copy

import pytest
import torch
from small_loop import equal_states, small_network, small_sampler, state_of
from torch import nn
from versions import names_kept_by_export

import wdpurify
from wdpurify import BalancedStrength, PurifyRegularizer


def _model():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    return nn.Sequential(body, nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))


def _train(model, purify, steps=8):
    criterion = nn.CrossEntropyLoss() if purify is None else purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], 0.05)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        images, labels = (
            torch.rand((12, 3, 8, 8), generator=generator),
            torch.randint(4, (12,), generator=generator),
        )
        criterion(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return state_of(model)


def _purify(model, **options):
    return PurifyRegularizer.for_model(model, small_sampler(), **({"strength": BalancedStrength(2.0, fade=0)} | options))


def _changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_frozen_backbone_warns_once_and_trains_as_without_the_plugin():
    def probing():
        model = _model()
        model[:4].requires_grad_(False)
        return model

    plain = _train(probing(), None)
    model = probing()
    with pytest.warns(wdpurify.exceptions.PullNotAppliedWarning, match="frozen backbone") as caught:
        purified = _train(model, _purify(model))
    assert len(caught) == 1
    assert equal_states(plain, purified)


def test_a_partly_frozen_backbone_is_purified_where_it_trains():
    model = _model()
    model[0].requires_grad_(False)
    model[0][1].eval()  # frozen statistics, as fine-tuning scripts keep them
    before, plain = state_of(model), copy.deepcopy(model)
    after, without = _train(model, _purify(model)), _train(plain, None)
    assert _changed(before, after) == {"2.weight", "2.bias", "4.weight", "4.bias"}
    assert _changed(without, after) >= {"2.weight", "2.bias"}
    assert not model[0][1].training


def test_a_middle_layer_is_purified_below_it_alone():
    model = _model()
    purify = _purify(model, layer="0.3", every=1)
    gradients = []
    for _ in range(2):  # the first pass shows the task's gradient
        model.zero_grad()
        loss = model(torch.rand(12, 3, 8, 8)).square().mean()
        (loss + purify.loss()).backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        purify.optimizer_stepped()
    model.zero_grad()
    purify.remove()
    assert gradients["0.0.weight"].abs().max() > 0
    assert purify.tap.feature_dim == 8


def test_a_backbone_that_unfreezes_later_is_purified_from_then_on():
    model = _model()
    model[:4].requires_grad_(False)
    purify = _purify(model, every=1)
    with pytest.warns(wdpurify.exceptions.PullNotAppliedWarning):
        _train(model, purify, 2)
    model.requires_grad_(True)
    _train(model, purify, 3)
    assert purify.metrics().gradient_ratio > 0


def test_auxiliary_rows_leave_no_trace_in_the_statistics():
    plain = _model()
    watched = copy.deepcopy(plain)
    assert equal_states(_train(plain, None), _train(watched, _purify(watched, strength=0.0)))
    moved = copy.deepcopy(plain)
    _train(moved, _purify(moved, strength=0.0, update_statistics=True))
    again = copy.deepcopy(plain)
    _train(again, None)
    assert _changed(state_of(again), state_of(moved)) == {"0.1.running_mean", "0.1.running_var", "0.1.num_batches_tracked"}


@names_kept_by_export
def test_an_exported_program_is_the_one_without_the_plugin():
    model, images = _model(), torch.rand(12, 3, 8, 8)
    plain = torch.export.export(copy.deepcopy(model), (images,))
    purify = _purify(model)
    tapped = torch.export.export(model, (images,))
    assert [node.target for node in plain.graph.nodes] == [node.target for node in tapped.graph.nodes]
    assert purify.tap.current() is None


@names_kept_by_export
def test_onnx_export_gives_the_same_graph():
    pytest.importorskip("onnxscript")
    model, images = _model().eval(), torch.rand(12, 3, 8, 8)

    def graph():
        program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
        return [node.op_type for node in program.model.graph]

    plain = graph()
    purify = _purify(model)
    assert graph() == plain
    assert purify.tap.current() is None


def test_a_frozen_extractor_under_a_trained_prompt_trains_on():
    network = small_network()
    network.features.requires_grad_(False)
    prompt = torch.zeros(3, 8, 8, requires_grad=True)
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6)
    optimizer = torch.optim.SGD([prompt, *network.head.parameters()], 0.1)
    for _ in range(3):
        purify.critic_step()
        features = network.features(torch.rand(6, 3, 8, 8) + prompt)
        (network.head(features).square().mean() + purify.loss(features)).backward()
        optimizer.step()
        optimizer.zero_grad()
        purify.optimizer_stepped()
    assert prompt.abs().max() > 0
