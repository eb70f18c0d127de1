"""What is said when purifying does nothing, and how wrong input is refused."""

import warnings

import numpy as np
import pytest
import torch
from small_loop import equal_states, small_network, small_sampler, state_of
from torch import nn

import wdpurify
from wdpurify import (
    BalancedStrength,
    Critic,
    GroupSampler,
    OneSided,
    PurifyRegularizer,
    WeightClipping,
)
from wdpurify._diagnostics import Diagnostics


def _two_steps(extract=None, task=None, **options):
    extract = extract or nn.Linear(4, 3)
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, every=1, **options)
    for _ in range(8):
        extract.zero_grad()
        purify.critic_step()
        features = extract(torch.randn(5, 4))
        loss = (task or torch.sum)(features) + purify.loss(features)
        if loss.requires_grad:
            loss.backward()
        purify.optimizer_stepped()
    return purify


def test_training_in_evaluation_mode_is_named_unless_passes_are_announced():
    for announced in (False, True):
        extract = nn.Linear(4, 3).eval()
        purify = PurifyRegularizer(extract, GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8), feature_dim=3)
        optimizer = torch.optim.SGD(extract.parameters(), 0.01)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(7):
                if announced:
                    purify.critic_step()
                features = extract(torch.randn(5, 4))
                (features.square().sum() + purify.loss(features)).backward()
                optimizer.step()
                optimizer.zero_grad()
        assert ["evaluation mode" in str(warning.message) for warning in said] == [True] * (not announced)
        assert purify.sampler.state_dict()["drawn"] == 7 * announced


def test_features_without_grad_warn_once_and_purifying_resumes_when_they_have_it():
    extract = nn.Linear(4, 3).requires_grad_(False)
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, strength=BalancedStrength(1.0, fade=0), every=1)
    with pytest.warns(wdpurify.exceptions.PullNotAppliedWarning, match="frozen backbone") as caught:
        for _ in range(3):
            purify.critic_step()
            purify.loss(extract(torch.randn(5, 4)))
    assert len(caught) == 1
    assert purify.loss(extract(torch.randn(5, 4))) == 0
    extract.requires_grad_(True)
    for _ in range(2):
        extract.zero_grad()
        purify.critic_step()
        features = extract(torch.randn(5, 4))
        (features.square().sum() + purify.loss(features)).backward()
        purify.optimizer_stepped()
    assert purify.metrics().gradient_ratio > 0


def test_a_dead_critic_is_named_with_its_remedy():
    critic = Critic(3, 2, hidden=(4,), activation=nn.ReLU)
    nn.init.constant_(critic[0].bias, -1000.0)
    with pytest.warns(wdpurify.exceptions.CriticWarning, match="GradientPenalty"):
        _two_steps(critic=critic, constraint=WeightClipping(1000.0))


def _with_auxiliary_images_times(factor, network):
    torch.manual_seed(0)
    images, labels = torch.rand(64, 8), torch.arange(64) % 2
    purify = PurifyRegularizer.for_model(network, GroupSampler(factor * torch.rand(64, 8), labels, batch_size=16))
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(12):
        criterion(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return purify.metrics().spread_beside_task


@pytest.mark.parametrize("factor", [255.0, 1 / 255])
def test_auxiliary_images_of_another_range_are_named(factor):
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    with pytest.warns(wdpurify.exceptions.FeatureScaleWarning, match="0 to 255"):
        ratio = _with_auxiliary_images_times(factor, network)
    assert 0.3 < ratio / factor < 3.0


class _Places(nn.Module):
    """Features of several places, before or after the channels."""

    def __init__(self, *, channels_first):
        super().__init__()
        self.body = nn.Linear(8, 32)
        self.fold = nn.Unflatten(1, (8, 4) if channels_first else (4, 8))
        self.head = nn.Conv1d(8, 2, 1) if channels_first else nn.Linear(8, 2)

    def forward(self, rows):
        scores = self.head(self.fold(self.body(rows)))
        return scores.mean(2 if isinstance(self.head, nn.Conv1d) else 1)


@pytest.mark.parametrize("channels_first", [True, False], ids=["signals", "tokens"])
def test_auxiliary_images_of_another_range_are_named_where_features_have_several_places(channels_first, recwarn):
    with pytest.warns(wdpurify.exceptions.FeatureScaleWarning, match="0 to 255"):
        ratio = _with_auxiliary_images_times(255.0, _Places(channels_first=channels_first))
    assert 0.3 < ratio / 255.0 < 3.0
    assert 0.5 < _with_auxiliary_images_times(1.0, _Places(channels_first=channels_first)) < 2.0


def test_images_that_are_prepared_alike_or_normalised_by_the_network_raise_no_warning():
    alike = _with_auxiliary_images_times(1.0, nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)))
    network = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    normalised = _with_auxiliary_images_times(255.0, network)
    assert 0.5 < alike < 2.0
    assert 0.5 < normalised < 2.0


def test_features_that_drift_apart_later_are_not_taken_for_images_of_another_range():
    figures = {"critic_gradient_norm": 1.0, "task_norm": 1.0, "spread_kept": 1.0}
    diagnostics = Diagnostics(needs_task_gradient=True, layer=None)
    for ratio in (float("nan"), 2.0, *[1e4] * 10):
        diagnostics.log(**{name: torch.tensor(value) for name, value in {**figures, "spread_beside_task": ratio}.items()})
        diagnostics.check()


def test_a_resumed_run_was_looked_at_before():
    purify = _two_steps()
    assert purify._loop._diagnostics.inputs_matched
    resumed = PurifyRegularizer(nn.Linear(4, 3), GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8), feature_dim=3)
    assert not resumed._loop._diagnostics.inputs_matched
    resumed.load_state_dict(purify.state_dict())
    assert resumed._loop._diagnostics.inputs_matched


def test_a_saturated_critic_is_named_when_metrics_are_read():
    purify = _two_steps(constraint=WeightClipping(0.0625), critic_lr=1.0, critic_steps=50)
    with pytest.warns(wdpurify.exceptions.CriticWarning, match="clipping bound"):
        assert purify.metrics().clip_share > 0.9


def test_a_task_gradient_that_never_arrives_is_named():
    with pytest.warns(wdpurify.exceptions.PullNotAppliedWarning, match="the very tensor that the head reads"):
        _two_steps(task=lambda features: 0.0 * features.sum())


def test_critic_parameters_in_the_users_optimiser_are_noticed():
    extract = nn.Linear(4, 3)
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3)
    optimizer = torch.optim.AdamW([*extract.parameters(), *purify.critic.parameters()])
    purify.critic_step()
    sum(weight.sum() for weight in purify.critic.parameters()).backward()
    optimizer.step()
    with pytest.warns(wdpurify.exceptions.CriticWarning, match="out of your optimiser"):
        purify.critic_step()


def test_a_healthy_run_warns_of_nothing():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _two_steps()
    assert caught == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, "`strength` must be a finite number of at least 0, got -1.0"),
        ({"every": 0}, "`every` must be at least 1, got 0"),
        ({"critic_steps": 0}, "`critic_steps` must be at least 1, got 0"),
        ({"critic_lr": 0.0}, "`critic_lr` must be positive, got 0.0"),
        ({"feature_dim": 0}, "`feature_dim` must be at least 1, got 0"),
        ({"pool": "median"}, "`pool` must be one of 'mean', 'first', 'last', got 'median'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PurifyRegularizer(small_network().features, small_sampler(), **({"feature_dim": 6} | options))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"extract": torch.zeros(3)}, "`extract` must have `__call__`, got Tensor. Give the module"),
        ({"extract": nn.Linear}, "`extract` must be an object, got the class Linear. Give the module"),
        ({"sampler": nn.Linear(1, 1)}, "`sampler` must have `next_batch`, got Linear. Give `GroupSampler"),
        ({"sampler": [small_sampler(), small_sampler()]}, "`sampler` must have `next_batch`, got list"),
        ({"sampler": GroupSampler}, "`sampler` must be an object, got the class GroupSampler"),
        ({"objective": wdpurify.TwoSided}, r"`objective` must be an object, got the class TwoSided. Give .* `TwoSided\(\)`"),
        ({"objective": "two-sided"}, "`objective` must have `acts_on`, got str"),
        ({"strength": wdpurify.FixedStrength}, "`strength` must be an object, got the class FixedStrength. Give a number"),
        ({"strength": None}, "`strength` must have `factor`, got NoneType. Give a number"),
        ({"constraint": wdpurify.WeightClipping}, "`constraint` must be an object, got the class WeightClipping"),
        ({"constraint": "clip"}, "`constraint` must have `penalty`, got str"),
        ({"critic_lr": "0.1"}, "`critic_lr` must be a number, got str"),
        ({"seed": "a"}, "`seed` must have `__index__`, got str. Give an integer"),
    ],
)
def test_arguments_of_another_kind_are_refused_with_what_to_give(arguments, message):
    given = {"extract": small_network().features, "sampler": small_sampler(), "feature_dim": 6} | arguments
    with pytest.raises(TypeError, match=message):
        PurifyRegularizer(given.pop("extract"), given.pop("sampler"), **given)


def test_a_model_a_layer_and_a_criterion_of_another_kind_are_refused_with_what_to_give():
    network, sampler = small_network(), small_sampler()
    with pytest.raises(TypeError, match="`model` must have `named_modules`, got GroupSampler"):
        PurifyRegularizer.for_model(sampler, network)
    name, layer = list(network.named_modules())[-1]
    with pytest.raises(ValueError, match=f"got {type(layer).__name__}; give its name, `layer='{name}'`"):
        PurifyRegularizer.for_model(network, sampler, layer=layer)
    purify = PurifyRegularizer.for_model(network, sampler)
    with pytest.raises(TypeError, match=r"got the class CrossEntropyLoss. Give for example `nn.CrossEntropyLoss\(\)`"):
        purify.criterion(nn.CrossEntropyLoss)


def test_a_plain_function_needs_its_model():
    network = small_network()

    def extract(images):
        return network.features(images)

    with pytest.raises(ValueError, match=r"`extract` is a plain function: say with `model=\.\.\.`"):
        PurifyRegularizer(extract, small_sampler(), feature_dim=6)
    before = state_of(network)
    PurifyRegularizer(extract, small_sampler(), feature_dim=6, model=network).critic_step()
    assert equal_states(before, state_of(network))


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (torch.zeros(3), ValueError, r"`features` must have shape \(batch, 6\).*got \(3,\)"),
        (torch.zeros(3, 5), ValueError, r"`features` must have shape \(batch, 6\)"),
        (torch.zeros(3, 6).long(), TypeError, "must be a floating point tensor, got a torch.int64 tensor"),
        ("features", TypeError, "must be a floating point tensor, got str"),
    ],
)
def test_features_of_wrong_shape_or_type_are_refused(features, error, message):
    purify = PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6)
    with pytest.raises(error, match=message):
        purify.loss(features)


@pytest.mark.parametrize("head", ["detached", "second forward", "none"])
def test_a_loss_without_a_task_gradient_is_named_and_does_not_crash(head):
    extract, classifier = nn.Linear(4, 3), nn.Linear(3, 2)
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, every=1)
    images = torch.randn(5, 4)

    def steps():
        for _ in range(8):
            extract.zero_grad()
            purify.critic_step()
            features = extract(images)
            task = {
                "detached": classifier(features.detach()).sum(),
                "second forward": classifier(extract(images)).sum(),
                "none": 0.0,
            }[head]
            (task + purify.loss(features)).backward()
            purify.optimizer_stepped()

    with pytest.warns(wdpurify.exceptions.PullNotAppliedWarning, match="the very tensor"):
        steps()


def test_a_compiled_model_whose_backward_names_its_inputs_is_told_so():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    purify = PurifyRegularizer.for_model(model, GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8), every=1)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    compiled = torch.compile(model, backend="aot_eager")

    def steps():
        for _ in range(8):
            model.zero_grad()
            loss = criterion(compiled(torch.randn(5, 4)), torch.zeros(5, dtype=torch.long))
            loss.backward(inputs=list(model.parameters()))
            purify.optimizer_stepped()

    with pytest.warns(wdpurify.exceptions.PullNotAppliedWarning, match="without `inputs`"):
        steps()


def test_what_is_no_objective_is_refused():
    objective = lambda scores, groups, population: scores.mean()  # noqa: E731
    objective.acts_on = "features"
    with pytest.raises(ValueError, match="`acts_on` must be one of 'auxiliary', 'task', got 'features'"):
        PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6, objective=objective)
    with pytest.raises(ValueError, match="`toward` must be one of 'population', 'group', got 'up'"):
        OneSided("up")


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        (Critic(6, 1), r"`critic` must map \(batch, 6\) to \(batch, 3\), got \(2, 1\)"),
        (Critic(5, 3), r"`critic` must map \(batch, 6\) to \(batch, 3\)"),
        (lambda feature_dim, n_groups: nn.Linear(feature_dim, 2), r"got \(2, 2\)"),
    ],
)
def test_a_critic_of_other_widths_is_refused(critic, message):
    with pytest.raises(ValueError, match=message):
        PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6, critic=critic)


def test_strength_takes_any_real_number():
    purify = PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6, strength=np.float32(2.0))
    assert purify.strength.value == 2.0


def test_a_width_that_cannot_be_told_is_asked_for():
    class Maps(nn.Module):
        def forward(self, images):
            return images

    sampler = GroupSampler(torch.randn(20, 7, 7, 16), [0, 1] * 10, batch_size=8)
    with pytest.raises(ValueError, match=r"`feature_dim` is needed for features of shape \(2, 7, 7, 16\)"):
        PurifyRegularizer(Maps(), sampler)
    assert PurifyRegularizer(Maps(), sampler, feature_dim=16).critic[0].in_features == 16


def test_a_warning_points_to_the_users_own_line():
    model = nn.Sequential(nn.Linear(4, 3).requires_grad_(False), nn.Linear(3, 2))
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    tapped = PurifyRegularizer.for_model(model, sampler)
    explicit = PurifyRegularizer(model[0], sampler, feature_dim=3)
    criterion = tapped.criterion(nn.CrossEntropyLoss())
    scores = model(torch.randn(5, 4))
    for call in (lambda: explicit.loss(torch.ones(2, 3)), lambda: criterion(scores, torch.zeros(5, dtype=torch.long))):
        with pytest.warns(wdpurify.PurifyWarning) as caught:
            call()
        assert {warning.filename for warning in caught} == {__file__}
