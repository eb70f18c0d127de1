"""Saving and going on, bit for bit."""

import copy
import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch
from small_loop import OBJECTIVES, equal_states, small_network, small_sampler, state_of, train
from torch import nn
from torch.testing import assert_close

from wdpurify import BalancedStrength, Critic, OneSided, PurifyRegularizer


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_twenty_steps_are_ten_saved_loaded_in_a_fresh_process_and_ten(tmp_path, objective):
    script = f"""
import sys
sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
import torch
from small_loop import small_network, small_sampler, train
import wdpurify
from wdpurify import Critic, PurifyRegularizer
torch.set_num_threads(1)
torch.manual_seed(99)
network = small_network()
purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, objective=wdpurify.{objective!r}, seed=3)
saved = torch.load(sys.argv[1], weights_only=True)
network.load_state_dict(saved["network"]); purify.load_state_dict(saved["purify"])
train(network, purify, 10, start=10)
torch.save({{"network": network.state_dict(), "purify": purify.state_dict()}}, sys.argv[1])
"""
    network = small_network()
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, objective=objective, seed=3)
    train(network, purify, 10)
    path = tmp_path / "state.pt"
    torch.save({"network": network.state_dict(), "purify": purify.state_dict()}, path)
    train(network, purify, 10, start=10)
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    resumed = torch.load(path, weights_only=True)
    assert equal_states(resumed["network"], state_of(network))
    assert equal_states(resumed["purify"]["critic"], state_of(purify.critic))
    (saved,), (here,) = resumed["purify"]["ranks"], purify.state_dict()["ranks"]
    assert saved.keys() == here.keys()
    for name, value in here.items():
        if isinstance(value, torch.Tensor):
            assert_close(saved[name], value, rtol=0, atol=0, equal_nan=True)
        else:
            assert saved[name] == value


def test_a_saved_state_is_a_copy():
    network = small_network()
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, every=1)
    train(network, purify, 2)
    state = purify.state_dict()
    saved = copy.deepcopy(state)
    train(network, purify, 2)
    assert equal_states(saved["critic"], state["critic"])
    assert_close(saved["optimizer"]["state"], state["optimizer"]["state"], rtol=0, atol=0)


def test_seed_reaches_a_critic_made_by_a_partial_or_a_factory():
    def factory(feature_dim, n_groups):
        return nn.Sequential(nn.Linear(feature_dim, n_groups))

    for critic in (partial(Critic, hidden=(8,)), factory):
        before = torch.get_rng_state()
        made = [
            state_of(
                PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6, critic=critic, seed=seed).critic
            )
            for seed in (0, 0, 1)
        ]
        assert equal_states(made[0], made[1])
        assert not equal_states(made[0], made[2])
    torch.set_rng_state(before)
    factory_critic = PurifyRegularizer(nn.Flatten(), small_sampler(), feature_dim=192, critic=factory).critic
    assert torch.equal(before, torch.get_rng_state())
    assert factory_critic[0].out_features == 3


def test_seeds_give_different_critics_and_equal_seeds_equal_ones():
    critics = [
        PurifyRegularizer(small_network().features, small_sampler(), feature_dim=6, seed=seed).critic for seed in (0, 0, 1)
    ]
    assert equal_states(state_of(critics[0]), state_of(critics[1]))
    assert not equal_states(state_of(critics[0]), state_of(critics[2]))


def _purified(**options):
    network = small_network()
    purify = PurifyRegularizer(network.features, small_sampler(), **({"feature_dim": 6} | options))
    train(network, purify, 4)
    return purify


def test_a_run_whose_pull_is_to_keep_the_spread_goes_on_bit_for_bit():
    def made():
        torch.manual_seed(5)
        network = small_network()
        options = {"feature_dim": 6, "strength": BalancedStrength(5.0, fade=0.0, keep=0.9)}
        return network, PurifyRegularizer(network.features, small_sampler(), **options)

    network, purify = made()
    train(network, purify, 6)
    with torch.no_grad():  # features of less spread than they had
        for parameter in network.features.parameters():
            parameter.mul_(0.2)
    other, resumed = made()
    other.load_state_dict(network.state_dict())
    resumed.load_state_dict(purify.state_dict())
    for each, regularizer in ((network, purify), (other, resumed)):
        train(each, regularizer, 2)
    assert purify.metrics().spread_kept < 1
    assert resumed.metrics().spread_kept == purify.metrics().spread_kept
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())


def _without(state, name):
    return {entry: value for entry, value in state.items() if entry != name}


def _with_nan(state):
    state["critic"]["0.weight"][0, 0] = float("nan")
    return state


DAMAGED = {
    "another every": (lambda: _purified(every=2).state_dict(), "`every` 2, this regularizer has 1"),
    "another objective": (lambda: _purified(objective=OneSided()).state_dict(), r"`objective` OneSided\(toward='population'\)"),
    "another pool": (lambda: _purified(pool="last").state_dict(), "`pool` last, this regularizer has mean"),
    "another width": (
        lambda: PurifyRegularizer(nn.Flatten(), small_sampler(), feature_dim=192).state_dict(),
        "`feature_dim` 192, this regularizer has 6",
    ),
    "another critic": (lambda: _purified(critic=partial(Critic, hidden=(8,))).state_dict(), "a critic of other widths"),
    "another sampler": (
        lambda: PurifyRegularizer(small_network().features, small_sampler(batch_size=8), feature_dim=6).state_dict(),
        "`batch_size` 8, this sampler has 16",
    ),
    "another version": (lambda: _purified().state_dict() | {"version": 99}, "version 99, this wdpurify reads 8"),
    "no critic": (lambda: _without(_purified().state_dict(), "critic"), "it lacks 'critic'"),
    "no state": (lambda: [1, 2], "got list"),
    "a NaN": (lambda: _with_nan(_purified().state_dict()), "damaged in its entry 'critic.0.weight'"),
}


@pytest.mark.parametrize(("make", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing(make, message):
    purify = _purified()
    before = copy.deepcopy(purify.state_dict())
    with pytest.raises(ValueError, match=message):
        purify.load_state_dict(make())
    after = purify.state_dict()
    assert equal_states(before["critic"], after["critic"])
    assert_close(before["optimizer"]["state"], after["optimizer"]["state"], rtol=0, atol=0)
    assert str(before["ranks"]) == str(after["ranks"])


def _places(value, path=()):
    """Paths to everything that a state holds under a name."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield (*path, name)
            yield from _places(part, (*path, name))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _places(part, (*path, number))


def test_a_state_that_lacks_anything_is_refused_and_changes_nothing():
    purify, state = _purified(), _purified(seed=3).state_dict()
    before = str(purify.state_dict())
    places = [path for path in _places(state) if path[0] != "optimizer" or len(path) < 2]
    places = [path for path in places if path[:1] != ("options",) or len(path) > 1]
    assert len(places) > 30
    for path in places:
        damaged = copy.deepcopy(state)
        holder = damaged
        for step in path[:-1]:
            holder = holder[step]
        del holder[path[-1]]
        with pytest.raises(ValueError, match="`state`"):
            purify.load_state_dict(damaged)
        assert str(purify.state_dict()) == before, path


def test_loading_inside_inference_mode_leaves_a_regularizer_that_trains():
    purify, state = _purified(), _purified().state_dict()
    with torch.inference_mode():
        purify.load_state_dict(state)
    purify.optimizer_stepped()
    for _ in range(3):
        purify.critic_step()
        purify.optimizer_stepped()
    assert not equal_states(state["critic"], state_of(purify.critic))


def test_a_resumed_run_is_not_taken_for_one_without_a_task_gradient():
    network = small_network()
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, every=1)
    train(network, purify, 9)
    resumed = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, every=1)
    resumed.load_state_dict(purify.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(network, resumed, 2, start=9)
    assert resumed.metrics().gradient_ratio >= 0
