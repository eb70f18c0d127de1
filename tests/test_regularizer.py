"""PurifyRegularizer in a loop: what moves, what stays as it was, and what is said when something is wrong."""

import copy
import math
import subprocess
import sys
import warnings

import ot
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import wdpurify
from wdpurify import (
    BalancedStrength,
    Critic,
    FixedStrength,
    GradientPenalty,
    GroupSampler,
    PurifyRegularizer,
    SpectralClipping,
    WeightClipping,
)

OBJECTIVES = ("two-sided", "one-sided")


def _network(*, dropout=0.0, norm=True):
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Flatten()]
    network = nn.Module()
    network.features = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(8 * 9, 6))
    network.head = nn.Linear(6, 4)
    return network


def _sampler(*, fixed="all", seed=0, rows=60, batch_size=16):
    generator = torch.Generator().manual_seed(1)
    groups = [row % 3 for row in range(rows)]
    images = torch.rand((rows, 3, 8, 8), generator=generator) + torch.tensor(groups)[:, None, None, None]
    return GroupSampler(images, groups, fixed=fixed, batch_size=batch_size, seed=seed)


def _train(network, purify, steps, start=0, lr=0.05):
    """Steps of the contract's loop; the data of step i depend on i alone. Returns the task losses."""
    optimizer = torch.optim.SGD(network.parameters(), lr)
    losses = []
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator)
        if purify is not None:
            purify.critic_step()
        features = network.features(images)
        loss = nn.functional.cross_entropy(network.head(features), labels)
        losses.append(loss.item())
        if purify is not None:
            loss = loss + purify.loss(features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def _state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def _equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_purify_gradients_arrive_and_strength_zero_is_bit_identical_to_the_plain_run(objective):
    plain = _network(dropout=0.5)
    watched, purified = copy.deepcopy(plain), copy.deepcopy(plain)
    runs = []
    for network, strength in ((plain, None), (watched, 0.0), (purified, BalancedStrength(1.0, fade=0))):
        torch.manual_seed(7)
        options = {"objective": objective, "strength": strength}
        purify = None if strength is None else PurifyRegularizer(network.features, _sampler(), feature_dim=6, **options)
        losses = _train(network, purify, 7)
        runs.append((losses, _state(network), torch.get_rng_state()))
    assert runs[0][0] == runs[1][0]
    assert _equal(runs[0][1], runs[1][1])
    assert torch.equal(runs[0][2], runs[1][2])
    assert not _equal(runs[0][1], runs[2][1])
    assert torch.equal(runs[0][2], runs[2][2])  # dropout in auxiliary forwards draws from a stream of its own


def test_loss_moves_task_features_towards_the_population_or_the_group_as_named():
    # A has mean -1, B (the population) has mean +1; the extractor is the identity.
    images = torch.cat([torch.full((40, 2), -1.0), torch.full((40, 2), 1.0)]) + 0.1 * torch.randn(80, 2)
    for toward, sign in (("population", 1.0), ("group", -1.0)):
        sampler = GroupSampler(images, ["a"] * 40 + ["b"] * 40, fixed="a", batch_size=32)
        extract = nn.Linear(2, 2)
        nn.init.eye_(extract.weight), nn.init.zeros_(extract.bias)
        purify = PurifyRegularizer(
            extract, sampler, feature_dim=2, objective="one-sided", toward=toward, strength=FixedStrength(1.0), every=1
        )
        for _ in range(60):
            purify.critic_step()
        features = torch.zeros((4, 2), requires_grad=True)
        purify.loss(features).backward()
        assert (sign * -features.grad > 0).all()


def test_two_sided_training_brings_the_groups_together_and_leaves_them_apart_without_strength():
    def separation(strength):
        torch.manual_seed(0)
        network = _network(norm=False)
        purify = PurifyRegularizer(network.features, _sampler(), feature_dim=6, strength=strength, every=1)
        _train(network, purify, 60)
        return purify.metrics().separation

    assert separation(2.0) < 0.5 * separation(0.0)


def test_as_published_is_the_papers_setting_and_differs_from_the_default():
    purify = PurifyRegularizer.as_published(_network().features, _sampler(fixed=0), feature_dim=6, toward="group")
    assert (purify.objective, purify.toward, purify.every) == ("one-sided", "group", 3)
    assert isinstance(purify.strength, FixedStrength)
    assert purify.strength.value == 1.0
    assert max(weight.abs().max() for weight in purify.critic.parameters()) <= 0.1
    assert [layer.out_features for layer in purify.critic if isinstance(layer, nn.Linear)] == [512, 256, 10, 1]
    assert PurifyRegularizer(_network().features, _sampler(), feature_dim=6).objective == "two-sided"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_neither_call_leaves_a_gradient_where_it_does_not_belong(objective):
    network = _network()
    purify = PurifyRegularizer(network.features, _sampler(), feature_dim=6, objective=objective, every=1)
    before = _state(network)
    critic_before = _state(purify.critic)
    purify.critic_step()
    assert _equal(before, _state(network))
    assert not _equal(critic_before, _state(purify.critic))
    assert all(parameter.grad is None for parameter in [*network.parameters(), *purify.critic.parameters()])
    features = network.features(torch.rand(5, 3, 8, 8))
    critic_before = _state(purify.critic)
    (purify.loss(features) + network.head(features).sum()).backward()
    assert _equal(critic_before, _state(purify.critic))
    assert all(parameter.grad is None for parameter in purify.critic.parameters())
    assert all(parameter.requires_grad for parameter in purify.critic.parameters())


def test_critic_acts_on_every_third_call():
    purify = PurifyRegularizer(_network().features, _sampler(), feature_dim=6)
    changed = []
    for _ in range(7):
        before = _state(purify.critic)
        purify.critic_step()
        changed.append(not _equal(before, _state(purify.critic)))
    assert changed == [True, False, False, True, False, False, True]


def test_critic_steps_and_learning_rate_are_used():
    def moved(**options):
        purify = PurifyRegularizer(_network().features, _sampler(), feature_dim=6, constraint=WeightClipping(100.0), **options)
        before = torch.cat([weight.detach().flatten() for weight in purify.critic.parameters()])
        purify.critic_step()
        return (torch.cat([weight.detach().flatten() for weight in purify.critic.parameters()]) - before).abs().max().item()

    # Adam's first step moves a weight by the learning rate.
    assert_close(moved(critic_lr=1e-2, critic_steps=1), 1e-2, rtol=1e-3, atol=0)
    assert moved(critic_lr=1e-2, critic_steps=5) > 2e-2


@pytest.mark.parametrize("constraint", [WeightClipping(0.05), SpectralClipping(1.0)])
def test_constraint_holds_at_the_start_after_steps_and_after_loading(constraint):
    def holds(critic):
        if isinstance(constraint, WeightClipping):
            return max(weight.abs().max() for weight in critic.parameters()) <= 0.05
        return wdpurify.lipschitz.lipschitz_bound(critic) <= 1.0 + 1e-6

    loose = Critic(6, 3)
    with torch.no_grad():
        for parameter in loose.parameters():
            parameter.mul_(50.0)
    assert not holds(loose)
    purify = PurifyRegularizer(
        _network().features, _sampler(), feature_dim=6, constraint=constraint, critic=copy.deepcopy(loose)
    )
    assert holds(purify.critic)
    purify.critic_step()
    assert holds(purify.critic)
    state = purify.state_dict() | {"critic": loose.state_dict()}
    purify.load_state_dict(state)
    assert holds(purify.critic)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("update_statistics", [False, True])
def test_batchnorm_statistics_stay_bit_identical_unless_asked_otherwise(objective, update_statistics):
    network = _network()
    purify = PurifyRegularizer(
        network.features, _sampler(), feature_dim=6, objective=objective, update_statistics=update_statistics, every=1
    )
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    versions = [buffer._version for buffer in buffers]
    purify.critic_step()
    same = all(torch.equal(old, new) for old, new in zip(before, buffers, strict=True))
    assert same is not update_statistics
    assert all(old is new for old, new in zip(buffers, network.buffers(), strict=True))
    if not update_statistics:
        assert versions == [buffer._version for buffer in buffers]


def test_statistics_after_training_equal_those_of_the_run_without_strength_in_a_frozen_network():
    # With lr 0 the weights stay, so the buffers depend on the task batches alone.
    buffers = []
    for strength in (0.0, 1.0):
        torch.manual_seed(0)
        network = _network()
        _train(network, PurifyRegularizer(network.features, _sampler(), feature_dim=6, strength=strength), 5, lr=0.0)
        buffers.append([buffer.clone() for buffer in network.buffers()])
    assert all(torch.equal(first, second) for first, second in zip(*buffers, strict=True))


def test_modes_and_requires_grad_are_not_touched():
    network = _network()
    network.features[1].eval()
    network.features[0].weight.requires_grad_(False)
    _train(network, PurifyRegularizer(network.features, _sampler(), feature_dim=6, every=1), 3)
    assert [module.training for module in network.features] == [True, False, True, True, True, True]
    assert not network.features[0].weight.requires_grad


def test_an_auxiliary_forward_between_forward_and_backward_does_not_upset_autograd():
    network = _network()
    network.features[1].eval()  # frozen BatchNorm saves its running statistics for the backward pass
    purify = PurifyRegularizer(network.features, _sampler(), feature_dim=6, every=1)
    for _ in range(2):
        early = network.features(torch.rand(4, 3, 8, 8)).sum()
        purify.critic_step()
        early.backward()
        purify.critic_step()
        network.features[1].running_mean.add_(0.0)  # what DDP's buffer broadcast does to the version counter
        features = network.features(torch.rand(4, 3, 8, 8))
        (network.head(features).sum() + purify.loss(features)).backward()
    assert network.features[0].weight.grad.isfinite().all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_twenty_steps_are_ten_saved_loaded_in_a_fresh_process_and_ten(tmp_path, objective):
    script = f"""
import sys
sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
import torch
from test_regularizer import _network, _sampler, _train
from wdpurify import PurifyRegularizer
torch.set_num_threads(1)
torch.manual_seed(99)
network = _network()
purify = PurifyRegularizer(network.features, _sampler(), feature_dim=6, objective={objective!r}, seed=3)
saved = torch.load(sys.argv[1], weights_only=True)
network.load_state_dict(saved["network"]); purify.load_state_dict(saved["purify"])
_train(network, purify, 10, start=10)
torch.save({{"network": network.state_dict(), "purify": purify.state_dict()}}, sys.argv[1])
"""
    network = _network()
    purify = PurifyRegularizer(network.features, _sampler(), feature_dim=6, objective=objective, seed=3)
    _train(network, purify, 10)
    path = tmp_path / "state.pt"
    torch.save({"network": network.state_dict(), "purify": purify.state_dict()}, path)
    _train(network, purify, 10, start=10)
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    resumed = torch.load(path, weights_only=True)
    assert _equal(resumed["network"], _state(network))
    assert _equal(resumed["purify"]["critic"], _state(purify.critic))
    assert resumed["purify"]["sampler"] == purify.sampler.state_dict()
    assert torch.equal(resumed["purify"]["strength"]["task_norm"], purify.strength.task_norm)


def test_a_saved_state_is_a_copy():
    network = _network()
    purify = PurifyRegularizer(network.features, _sampler(), feature_dim=6, every=1)
    _train(network, purify, 2)
    state = purify.state_dict()
    saved = copy.deepcopy(state)
    _train(network, purify, 2)
    assert _equal(saved["critic"], state["critic"])
    assert_close(saved["optimizer"]["state"], state["optimizer"]["state"], rtol=0, atol=0)


def test_critic_never_appears_in_the_users_model():
    network = _network()
    keys, count = list(network.state_dict()), len(list(network.parameters()))
    _train(network, PurifyRegularizer(network.features, _sampler(), feature_dim=6), 3)
    assert list(network.state_dict()) == keys
    assert len(list(network.parameters())) == count


def test_seeds_give_different_critics_and_equal_seeds_equal_ones():
    critics = [PurifyRegularizer(_network().features, _sampler(), feature_dim=6, seed=seed).critic for seed in (0, 0, 1)]
    assert _equal(_state(critics[0]), _state(critics[1]))
    assert not _equal(_state(critics[0]), _state(critics[2]))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_step_runs_on_the_meta_device_so_nothing_strays_or_synchronises(objective):
    network = _network().to("meta")
    purify = PurifyRegularizer(network.features, _sampler(), feature_dim=6, objective=objective, every=1)
    for _ in range(2):
        purify.critic_step()
        features = network.features(torch.rand(5, 3, 8, 8, device="meta"))
        loss = network.head(features).sum() + purify.loss(features)
        assert loss.device.type == "meta"
        loss.backward()
    with pytest.raises((RuntimeError, NotImplementedError)):  # a synchronisation would have raised like this one
        loss.item()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bfloat16_autocast_leaves_the_critic_in_float32_and_every_parameter_its_gradient(objective):
    network = _network()
    purify = PurifyRegularizer(network.features, _sampler(), feature_dim=6, objective=objective, every=1)
    for _ in range(2):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            purify.critic_step()
            features = network.features(torch.rand(5, 3, 8, 8))
            assert features.dtype == torch.bfloat16
            loss = network.head(features).float().square().mean() + purify.loss(features)
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in purify.critic.parameters())
    assert purify.metrics().gradient_ratio > 0


def test_auxiliary_forward_replays_the_training_forwards_autocast():
    seen = []
    extract = nn.Linear(4, 3)
    extract.register_forward_hook(lambda module, arguments, output: seen.append(output.dtype))
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, every=1)
    for _ in range(2):
        purify.critic_step()  # outside autocast, as in a loop that wraps only the forward
        with torch.autocast("cpu", torch.bfloat16):
            features = extract(torch.randn(5, 4))
            loss = features.float().sum() + purify.loss(features)
        loss.backward()
    assert seen == [torch.float32, torch.bfloat16, torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_dtypes_get_auxiliary_images_and_a_term_of_theirs(dtype):
    extract = nn.Linear(4, 3).to(dtype)
    purify = PurifyRegularizer(extract, GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8), feature_dim=3, every=1)
    purify.critic_step()
    features = extract(torch.randn(5, 4, dtype=dtype))
    term = purify.loss(features)
    assert term.dtype == dtype
    (features.sum() + term).backward()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rows_that_are_not_finite_are_left_out_and_nothing_is_lost(bad, objective):
    images = torch.randn(32, 4)
    images[::4] = bad
    sampler = GroupSampler(images, [row % 2 for row in range(32)], batch_size=16)
    extract = nn.Linear(4, 3)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, objective=objective, every=1)
    for _ in range(4):
        purify.critic_step()
        features = extract(torch.cat([torch.randn(5, 4), torch.full((1, 4), bad)]))
        term = purify.loss(features)
        assert term.isfinite()
        (features[:5].sum() + term).backward()
    assert purify.metrics().dropped_rows > 0
    assert all(weight.isfinite().all() for weight in purify.critic.parameters())
    for tensors in purify.state_dict()["optimizer"]["state"].values():
        assert all(value.isfinite().all() for value in tensors.values())


def test_a_batch_without_a_usable_row_changes_nothing_to_nan():
    sampler = GroupSampler(torch.full((8, 4), math.nan), [0, 1] * 4, batch_size=4)
    purify = PurifyRegularizer(nn.Linear(4, 3), sampler, feature_dim=3, every=1)
    purify.critic_step()
    assert all(weight.isfinite().all() for weight in purify.critic.parameters())
    assert purify.metrics().estimate == 0


def test_rare_values_and_values_missing_from_a_batch_are_handled():
    images = torch.randn(400, 4)
    sampler = GroupSampler(images, list(range(200)) * 2, batch_size=8)
    extract = nn.Linear(4, 3)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, every=1)
    for _ in range(3):
        purify.critic_step()
        features = extract(torch.randn(5, 4))
        (features.sum() + purify.loss(features)).backward()
    assert extract.weight.grad.isfinite().all()
    assert math.isfinite(purify.metrics().estimate)


@pytest.mark.filterwarnings("ignore::wdpurify.SaturatedCriticWarning")  # that is what 200 steps of clipping do
@pytest.mark.parametrize("constraint", [GradientPenalty(), SpectralClipping(), WeightClipping(0.1)])
def test_estimate_per_lipschitz_never_exceeds_the_exact_distance(constraint):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((64, 2), generator=generator)
    images[:32] += torch.tensor([3.0, 0.0])
    groups = ["a"] * 32 + ["b"] * 32
    sampler = GroupSampler(images, groups, batch_size=64)
    extract = nn.Linear(2, 2)
    nn.init.eye_(extract.weight), nn.init.zeros_(extract.bias)
    purify = PurifyRegularizer(
        extract, sampler, feature_dim=2, constraint=constraint, strength=0.0, every=1, critic_lr=1e-2, critic_steps=200
    )
    purify.critic_step()
    exact = []
    for label in ("a", "b"):
        members = images[[group == label for group in groups]].double().numpy()
        cost = ot.dist(members, images.double().numpy(), metric="euclidean")
        exact.append(ot.emd2([], [], cost))
    distance = sum(exact) / 2
    metrics = purify.metrics()
    assert 0 < metrics.estimate_per_lipschitz <= distance
    if isinstance(constraint, GradientPenalty):  # the penalty holds the slope near 1, so the raw estimate is close
        assert_close(metrics.estimate, distance, rtol=0.15, atol=0)


def test_metrics_are_plain_numbers_and_nan_before_the_first_step():
    purify = PurifyRegularizer(_network().features, _sampler(), feature_dim=6)
    assert math.isnan(purify.metrics().estimate)
    purify.critic_step()
    metrics = purify.metrics()
    assert all(isinstance(value, float) for value in metrics)
    assert metrics.feature_norm > 0
    assert metrics.critic_gradient_norm > 0


def test_gradient_ratio_reports_what_was_applied():
    extract = nn.Linear(4, 3)
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    strength = BalancedStrength(0.25, fade=0, decay=0)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, strength=strength, every=1)
    for _ in range(2):
        purify.critic_step()
        features = extract(torch.ones(5, 4))
        (features.sum() + purify.loss(features)).backward()
    assert_close(purify.metrics().gradient_ratio, 0.25, rtol=1e-4, atol=0)


def test_evaluation_adds_nothing_and_keeps_nothing():
    network = _network()
    purify = PurifyRegularizer(network.features, _sampler(), feature_dim=6)
    purify.critic_step()
    with torch.no_grad():
        term = purify.loss(network.features(torch.rand(4, 3, 8, 8)))
    assert term == 0
    assert not term.requires_grad


@pytest.mark.parametrize("shape", [(5, 6), (5, 7, 6), (5, 6, 2, 3), (5, 2, 3, 6)])
def test_features_of_every_documented_shape_are_pooled(shape):
    purify = PurifyRegularizer(_network().features, _sampler(), feature_dim=6, objective="one-sided", every=1)
    for _ in range(2):
        purify.critic_step()
        features = torch.randn(shape, requires_grad=True)
        (features.sum() + purify.loss(features)).backward()
    assert features.grad.shape == shape
    assert not torch.equal(features.grad, torch.ones(shape))


def test_feature_width_is_found_by_a_forward_that_leaves_no_trace():
    network = _network(dropout=0.5)
    sampler = _sampler()
    before, random_state = _state(network), torch.get_rng_state()
    purify = PurifyRegularizer(network.features, sampler)
    assert purify.critic[0].in_features == 6
    assert _equal(before, _state(network))
    assert torch.equal(random_state, torch.get_rng_state())
    assert sampler.state_dict()["drawn"] == 0


def _two_steps(extract=None, task=None, **options):
    extract = extract or nn.Linear(4, 3)
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, every=1, **options)
    for _ in range(8):
        purify.critic_step()
        features = extract(torch.randn(5, 4))
        loss = (task or torch.sum)(features) + purify.loss(features)
        if loss.requires_grad:
            loss.backward()
    return purify


def test_loss_before_any_critic_step_warns():
    extract = nn.Linear(4, 3)
    purify = PurifyRegularizer(extract, GroupSampler(torch.randn(9, 4), [0, 1, 2] * 3, batch_size=4), feature_dim=3)
    with pytest.warns(wdpurify.CriticNotSteppedWarning, match="call it once per iteration"):
        purify.loss(extract(torch.randn(2, 4)))


def test_features_without_grad_warn_once_and_purifying_resumes_when_they_have_it():
    extract = nn.Linear(4, 3).requires_grad_(False)
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3, strength=BalancedStrength(1.0, fade=0), every=1)
    with pytest.warns(wdpurify.FeaturesWithoutGradWarning, match="frozen backbone") as caught:
        for _ in range(3):
            purify.critic_step()
            assert purify.loss(extract(torch.randn(5, 4))) == 0
    assert len(caught) == 1
    extract.requires_grad_(True)
    for _ in range(2):
        purify.critic_step()
        features = extract(torch.randn(5, 4))
        (features.square().sum() + purify.loss(features)).backward()
    assert purify.metrics().gradient_ratio > 0


def test_a_dead_critic_is_named_with_its_remedy():
    critic = Critic(3, 2, hidden=(4,), activation=nn.ReLU)
    nn.init.constant_(critic[0].bias, -1000.0)
    with pytest.warns(wdpurify.DeadCriticWarning, match="GradientPenalty"):
        _two_steps(critic=critic, constraint=WeightClipping(1000.0))


def test_a_saturated_critic_is_named_when_metrics_are_read():
    purify = _two_steps(constraint=WeightClipping(0.0625), critic_lr=1.0, critic_steps=50)
    with pytest.warns(wdpurify.SaturatedCriticWarning, match="clipping bound"):
        assert purify.metrics().clip_share > 0.9


def test_a_task_gradient_that_never_arrives_is_named():
    with pytest.warns(wdpurify.NoTaskGradientWarning, match="the very tensor that the task's head reads"):
        _two_steps(task=lambda features: 0.0 * features.sum())


def test_critic_parameters_in_the_users_optimiser_are_noticed():
    extract = nn.Linear(4, 3)
    sampler = GroupSampler(torch.randn(20, 4), [0, 1] * 10, batch_size=8)
    purify = PurifyRegularizer(extract, sampler, feature_dim=3)
    optimizer = torch.optim.AdamW([*extract.parameters(), *purify.critic.parameters()])
    purify.critic_step()
    sum(weight.sum() for weight in purify.critic.parameters()).backward()
    optimizer.step()
    with pytest.warns(wdpurify.ForeignOptimizerWarning, match="out of your optimiser"):
        purify.critic_step()


def test_a_healthy_run_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _two_steps()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "three-sided"}, "`objective` must be one of 'two-sided', 'one-sided', got 'three-sided'"),
        ({"toward": "group"}, '`toward` needs `objective="one-sided"`'),
        ({"strength": -1.0}, "`value` must be a finite number of at least 0"),
        ({"every": 0}, "`every` must be at least 1, got 0"),
        ({"critic_steps": 0}, "`critic_steps` must be at least 1, got 0"),
        ({"critic_lr": 0.0}, "`critic_lr` must be positive, got 0.0"),
        ({"feature_dim": 0}, "`feature_dim`"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PurifyRegularizer(_network().features, _sampler(), **({"feature_dim": 6} | options))


def test_a_plain_function_needs_its_model():
    network = _network()

    def extract(images):
        return network.features(images)

    with pytest.raises(ValueError, match=r"`extract` is a plain function: say with `model=\.\.\.`"):
        PurifyRegularizer(extract, _sampler(), feature_dim=6)
    before = _state(network)
    PurifyRegularizer(extract, _sampler(), feature_dim=6, model=network).critic_step()
    assert _equal(before, _state(network))


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
    purify = PurifyRegularizer(_network().features, _sampler(), feature_dim=6)
    with pytest.raises(error, match=message):
        purify.loss(features)
