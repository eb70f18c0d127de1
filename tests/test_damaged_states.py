"""A state with any one entry damaged is refused, with the entry's name, and nothing has changed."""

import copy

import pytest
import torch
from small_loop import small_network, small_sampler, train
from torch import nn

from wdpurify import PurifyRegularizer


def _inside_an_iteration():
    torch.manual_seed(0)
    network = small_network()
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6)
    train(network, purify, 4)
    purify.critic_step()
    features = network.features(torch.rand(12, 3, 8, 8))
    (nn.functional.cross_entropy(network.head(features), torch.arange(12) % 4) + purify.loss(features)).backward()
    return purify


def _places(value, path=()):
    """Paths to all entries that hold no others."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*path, key))
    else:
        yield path, value


def _with(state, path, value):
    damaged = copy.deepcopy(state)
    place = damaged
    for key in path[:-1]:
        place = place[key]
    if value is _with:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return damaged


def _damages(value):
    """Values that no training comes to, in place of one; the function itself stands for none at all."""
    yield from (_with, "damaged", [])
    if isinstance(value, torch.Tensor):
        yield None
        yield torch.zeros((*value.shape, 2))
        yield value.float().new_full(value.shape, torch.inf) if value.numel() else None
        yield value.float().new_full(value.shape, 1e30) if value.numel() else None
        yield value.to(torch.int64).nan_to_num() if value.numel() else None
    elif isinstance(value, bool):
        yield from (None, 3)
    elif isinstance(value, int):
        yield from (None, -5, 0.5)


def test_every_entry_is_refused_by_its_name_and_nothing_has_changed():
    purify = _inside_an_iteration()
    state = purify.state_dict()
    before = str(state)
    accepted = []
    count = 0
    for path, value in _places(state):
        if path[0] in ("options", "version"):
            continue
        for damage in _damages(value):
            if damage is None and value is None:
                continue
            count += 1
            try:
                purify.load_state_dict(_with(state, path, damage))
            except ValueError:
                continue
            accepted.append((path, damage if damage is not _with else "missing"))
            purify.load_state_dict(state)
    assert count > 200
    # A task gradient may be infinite, as in the step that a loss scaler skips.
    assert {path[-1] for path, _ in accepted} <= {"controller.task_gradients.rows"}
    assert str(purify.state_dict()) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_pull_that_would_ruin_the_model_is_refused(value):
    purify = _inside_an_iteration()
    state = purify.state_dict()
    name = next(name for name in state["ranks"][0] if name.startswith("loop.pull.gradient."))
    state["ranks"][0][name].fill_(value)
    with pytest.raises(ValueError, match=f"damaged in its entry '{name}'"):
        purify.load_state_dict(state)
