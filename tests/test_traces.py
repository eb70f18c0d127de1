"""Auxiliary forwards leave no trace outside the model either: hooks and attributes of the user's hold the task's values."""

import copy

import pytest
import torch
from small_loop import equal_states, small_sampler, state_of
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import parametrizations, parametrize, prune

from wdpurify import BalancedStrength, FixedStrength, GroupSampler, PurifyRegularizer


class _Model(nn.Module):
    """Writes attributes of every kind in its forward, as expert layers and memory banks do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6))
        self.head = nn.Linear(6, 4)
        self.bank = torch.zeros(3)
        self.history = []
        self.seen = {}
        self.calls = 0

    def forward(self, images):
        features = self.body(images)
        self.aux_loss = features.square().mean()
        self.bank[self.calls % 3] = images.mean()
        self.history.append(float(images.mean()))
        self.seen["rows"] = len(images)
        self.calls += 1
        return self.head(features)


def _train(strength, steps=7):
    """A loop that uses what hooks and attributes hold in its loss; returns losses, weights and everything that was written."""
    torch.manual_seed(0)
    model = _Model()
    kept, activations = [], []
    model.body.register_forward_hook(lambda module, arguments, output: kept.append(output))
    model.body[1].register_forward_pre_hook(lambda module, arguments: activations.append(arguments[0].mean().item()))
    model.body[2].register_full_backward_hook(lambda module, inputs, outputs: activations.append(outputs[0].norm().item()))
    criterion = nn.CrossEntropyLoss()
    purify = None
    if strength is not None:
        purify = PurifyRegularizer.for_model(model, small_sampler(), strength=strength, every=1)
        criterion = purify.criterion(criterion)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator)
        scores = model(images)
        loss = criterion(scores, labels) + 0.1 * model.aux_loss + 0.1 * kept[-1].abs().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    written = (len(kept), activations, model.bank.tolist(), model.history, model.seen, model.calls)
    return losses, state_of(model), written, model, purify


def test_strength_zero_is_bit_identical_where_hooks_and_attributes_enter_the_loss():
    plain, watched = _train(None), _train(0.0)
    assert plain[0] == watched[0]
    assert equal_states(plain[1], watched[1])
    assert plain[2] == watched[2]


def test_hooks_and_attributes_hold_the_tasks_values_while_the_pull_acts():
    _, weights, written, model, _ = _train(FixedStrength(0.5))
    assert written[0] == written[5] == len(written[3]) == 7  # one call per step, all of the task's rows
    assert written[4] == {"rows": 12}
    assert max(written[3]) < 1.0  # auxiliary rows are brighter
    assert not equal_states(weights, _train(None)[1])
    assert list(vars(model)) == [*vars(_Model()), "aux_loss"]


def test_a_forward_that_raises_gives_everything_back():
    model = _Model()
    hooks = []
    model.body.register_forward_hook(lambda *arguments: hooks.append(1))
    before, weights = copy.copy(vars(model)), state_of(model)
    purify = PurifyRegularizer(lambda images: model(images[:, :2]), small_sampler(), feature_dim=4, model=model)
    with pytest.raises(RuntimeError):
        purify.critic_step()
    assert vars(model) == before
    assert equal_states(weights, state_of(model))
    model(torch.rand(2, 3, 8, 8))
    assert hooks == [1]


def _parametrised(layer):
    return parametrizations.weight_norm(layer)


def _spectral(layer):
    return parametrizations.spectral_norm(layer)


def _old_weight_norm(layer):
    with pytest.warns(FutureWarning):
        return torch.nn.utils.weight_norm(layer)


def _pruned(layer):
    return prune.l1_unstructured(layer, "weight", amount=0.3)


@pytest.mark.parametrize("change", [_parametrised, _spectral, _old_weight_norm, _pruned])
def test_layers_whose_weight_is_computed_by_torchs_own_hooks_are_pulled(change):
    gradients = []
    for strength in (0.0, 0.5):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), change(nn.Linear(192, 6)), nn.Linear(6, 4))
        before = state_of(model)
        criterion = PurifyRegularizer.for_model(model, small_sampler(), every=1, strength=FixedStrength(strength)).criterion(
            nn.CrossEntropyLoss()
        )
        generator = torch.Generator().manual_seed(1)
        scores = model(torch.rand((8, 3, 8, 8), generator=generator))
        task_side = state_of(model)
        criterion(scores, torch.zeros(8, dtype=torch.long)).backward()
        assert equal_states(task_side, state_of(model))
        assert before.keys() == task_side.keys()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model[1].parameters()]))
    assert not torch.equal(*gradients)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_that_keep_their_weights_in_a_list_are_pulled(kind):
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.head = kind(24, 6, batch_first=True), nn.Linear(6, 4)

        def forward(self, images):
            return self.head(self.recurrent(images.flatten(1).view(len(images), 8, 24))[0][:, -1])

    gradients = []
    for strength in (0.0, 0.5):
        torch.manual_seed(0)
        model = Sequence()
        weights = [id(weight) for weight in model.recurrent._flat_weights]
        purify = PurifyRegularizer.for_model(model, small_sampler(), every=1, strength=FixedStrength(strength))
        generator = torch.Generator().manual_seed(1)
        scores = model(torch.rand((8, 3, 8, 8), generator=generator))
        purify.criterion(nn.CrossEntropyLoss())(scores, torch.zeros(8, dtype=torch.long)).backward()
        assert [id(weight) for weight in model.recurrent._flat_weights] == weights
        gradients.append(model.recurrent.weight_hh_l0.grad)
    assert not torch.equal(*gradients)


def test_hooks_of_a_parameter_hear_one_gradient_of_task_and_pull_together():
    heard = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Linear(6, 4))
    model[1].weight.register_hook(lambda gradient: heard.append(gradient.clone()))
    purify = PurifyRegularizer.for_model(model, small_sampler(), every=1, strength=BalancedStrength(1.0, fade=0))
    criterion = purify.criterion(nn.CrossEntropyLoss())
    for _ in range(3):
        model.zero_grad()
        criterion(model(torch.rand(8, 3, 8, 8)), torch.zeros(8, dtype=torch.long)).backward()
    assert len(heard) == 3
    assert torch.equal(heard[-1], model[1].weight.grad)


def test_tied_buffers_and_buffers_used_twice_stay_tied_in_an_auxiliary_forward():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.BatchNorm1d(192), nn.BatchNorm1d(192)
            self.second.running_mean = self.first.running_mean
            self.linear = nn.Linear(192, 6)
            self.same = [None]

        def forward(self, images):
            self.same[0] = self.first.running_mean is self.second.running_mean
            assert self.same[0]
            return self.linear(self.second(self.first(images.flatten(1))))

    model = Tied()
    PurifyRegularizer(model, small_sampler(), feature_dim=6).critic_step()
    assert model.first.running_mean is model.second.running_mean


def test_a_model_compiled_in_place_is_not_compiled_again_by_auxiliary_forwards():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    criterion = PurifyRegularizer.for_model(model, small_sampler(), every=1).criterion(nn.CrossEntropyLoss())
    model.compile(backend=counter)
    frames = []
    for _ in range(5):
        criterion(model(torch.rand(8, 3, 8, 8)), torch.zeros(8, dtype=torch.long)).backward()
        frames.append(counter.frame_count)
    assert frames[0] == frames[-1] > 0


class _Keeper(nn.Module):
    """Keeps state in containers inside containers, as routers and memory banks do."""

    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(8, 16), nn.Linear(16, 3)
        self.nested = {"router": []}
        self.bank = {"mean": torch.zeros(16), "last": [torch.zeros(16)]}
        self.tied, self.pair = self.nested["router"], (torch.zeros(16), [0])

    def forward(self, rows):
        features = self.fc(rows)
        mean = features.detach().mean(0)
        for kept in (self.bank["mean"], self.bank["last"][0], self.pair[0]):
            kept.lerp_(mean, 0.1)
        self.pair[1][0] += 1
        assert self.tied is self.nested["router"]
        self.nested["router"].append((features - self.bank["mean"]).square().mean())
        return self.head(features - self.bank["last"][0] - self.pair[0])


def _kept_losses(strength):
    torch.manual_seed(0)
    model, criterion, losses = _Keeper(), nn.CrossEntropyLoss(), []
    rows, labels, sampler = torch.rand(64, 8), torch.randint(3, (64,)), GroupSampler(3 * torch.rand(64, 8), [0, 1] * 32)
    if strength is not None:
        criterion = PurifyRegularizer.for_model(model, sampler, strength=strength).criterion(criterion)
    for batch in torch.arange(64).split(16):
        loss = criterion(model(rows[batch]), labels[batch]) + sum(model.nested["router"])
        model.tied.clear()
        losses.append(loss.item())
        loss.backward()
    return losses, model.pair[1], model.bank["mean"].tolist()


def test_state_in_nested_containers_is_the_tasks_alone():
    assert _kept_losses(None) == _kept_losses(0.0)
    assert _kept_losses(0.5)[1] == [4]


def _cached_run(strength, *, steps=4):
    torch.manual_seed(0)
    body, head = parametrizations.weight_norm(nn.Linear(8, 16)), nn.Linear(16, 3)
    model = nn.Sequential(body, nn.ReLU(), head)
    optimizer, rows, labels = torch.optim.SGD(model.parameters(), 0.1), torch.rand(16, 8), torch.arange(16) % 3
    purify = None
    if strength is not None:
        sampler = GroupSampler(3 * torch.rand(64, 8), [0, 1] * 32)
        purify = PurifyRegularizer(model[:2], sampler, feature_dim=16, strength=strength)
    for _ in range(steps):
        with parametrize.cached():
            if purify is not None:
                purify.critic_step()
            features = model[:2](rows)
            loss = nn.functional.cross_entropy(head(features), labels)
            loss = loss if purify is None else loss + purify.loss(features)
            optimizer.zero_grad()
            loss.backward()
            assert all(parameter.grad is not None for parameter in model.parameters())
            optimizer.step()
    return state_of(model)


def test_the_cache_of_parametrisations_holds_the_tasks_weights_alone():
    assert equal_states(_cached_run(None), _cached_run(0.0))
    assert not equal_states(_cached_run(None), _cached_run(0.5))


def test_lazy_layers_are_refused_before_auxiliary_rows_initialise_them():
    body = nn.Sequential(nn.LazyLinear(16), nn.ReLU())
    purify = PurifyRegularizer(body, GroupSampler(torch.rand(64, 8), [0, 1] * 32), feature_dim=16)
    with pytest.raises(ValueError, match=r"lazy layers without weights \(0.weight, 0.bias\)"):
        purify.critic_step()
    body(torch.rand(2, 8))
    purify.critic_step()
