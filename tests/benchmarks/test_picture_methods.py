"""The methods of the picture benchmark: distances by their formulas, statistics, and training that goes on after a kill."""

from functools import partial

import numpy as np
import pytest
import torch
from coloured_pictures import build_pictures
from killed_run import whole_and_resumed
from purifybench.adapted import network_named
from purifybench.methods import METHODS, PICTURE_METHODS, Run
from purifybench.methods.distances import BANDWIDTHS, Coral, GroupMatching, MaximumMeanDiscrepancy
from purifybench.recipe import Recipe
from purifybench.training import Settings
from torch.testing import assert_close


def _reference_mmd(first, second):
    rows = np.concatenate([first, second])
    distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    total = 0.0
    for factor in BANDWIDTHS:
        kernel = np.exp(-factor * distances / distances.mean())
        signs = np.concatenate([np.full(len(first), 1 / len(first)), np.full(len(second), -1 / len(second))])
        total += signs @ kernel @ signs
    return total / len(BANDWIDTHS)


def _method(kind, parquet, **options):
    network = network_named("test_picture_networks:Tiny", 2, {})
    return kind(Run(network, build_pictures(parquet), steps=9), batch_size=8, **options)


def test_distances_are_those_of_their_formulas(parquet):
    squared_mmd = _method(MaximumMeanDiscrepancy, parquet).distance
    coral_distance = _method(Coral, parquet).distance
    first = torch.randn(7, 3, dtype=torch.float64)
    second = 2.0 * torch.randn(5, 3, dtype=torch.float64) + 1.0
    assert_close(squared_mmd(first, second).item(), _reference_mmd(first.numpy(), second.numpy()))
    covariances = np.cov(first.numpy().T) - np.cov(second.numpy().T)
    means = first.numpy().mean(0) - second.numpy().mean(0)
    assert_close(coral_distance(first, second).item(), (means**2).mean() + (covariances**2).mean())
    for distance in (squared_mmd, coral_distance):
        assert abs(distance(first, first).item()) < 1e-12 < distance(first, second).item()


def test_the_sliced_distance_is_the_mean_w1_of_projections_drawn_anew_in_every_step(parquet):
    pytest.importorskip("ot")
    method = _method(PICTURE_METHODS["sliced Wasserstein"], parquet)
    line = torch.arange(4.0)[:, None]
    assert_close(method.distance(line, 2.0 * line + 1.0), torch.tensor(2.5))  # means of 1, 2, 3 and 4
    first, second = torch.randn(6, 5), torch.randn(6, 5)
    before = method.distance(first, second)
    assert_close(method.distance(first, second), before)
    method.sampler.next_batch()
    assert not torch.allclose(method.distance(first, second), before)


def test_the_mean_distance_is_over_pairs_of_groups_with_two_rows(parquet):
    features = torch.tensor([[0.0], [0.0], [1.0], [1.0], [3.0], [3.0], [50.0]], requires_grad=True)
    groups = torch.tensor([0, 0, 1, 1, 2, 2, 3])

    class Apart(GroupMatching):
        def distance(self, first, second):
            return (first.mean() - second.mean()).abs()

    matching = _method(Apart, parquet)
    assert_close(matching.term(features, groups), torch.tensor(2.0))  # of 1, 3 and 2
    alone = matching.term(features[:2], groups[:2])
    alone.backward()
    assert alone.item() == 0.0


def test_protected_statistics_are_those_of_the_task_rows_alone(parquet):
    task = build_pictures(parquet)
    found = {}
    for name in ("plain", "gradient reversal", "gradient reversal, protected statistics"):
        torch.manual_seed(0)
        network = network_named("test_picture_networks:Tiny", 2, {})
        options = {"batch_size": 8} if "reversal" in name else {}
        method = PICTURE_METHODS[name](Run(network, task, steps=2), **options)
        method.loss(torch.ones(4, 3, 16, 16), torch.tensor([0, 1, 0, 1]))
        found[name] = dict(network.named_buffers())["features.body.1.running_mean"]
    plain, usual, protected = found.values()
    assert_close(protected, plain)
    assert not torch.allclose(usual, plain)


@pytest.mark.parametrize("name", [name for name in PICTURE_METHODS if name not in METHODS] + ["gradient reversal"])
def test_every_new_method_trains_and_resumes_to_the_same_weights(name, parquet, tmp_path, monkeypatch):
    task = build_pictures(parquet)
    monkeypatch.setattr("purifybench.training.CHECKPOINT_EVERY", 3)
    options = {} if name == "plain, head on unbiased rows" else {"batch_size": 16}
    settings = Settings(steps=6, batch_size=8, lr=1e-3, recipe=Recipe(augment=True))

    make = partial(PICTURE_METHODS[name], **options)
    whole, resumed = whole_and_resumed(task, make, settings, tmp_path / "run.pt")
    assert (resumed.accuracy, resumed.measures) == (whole.accuracy, whole.measures)
    assert resumed.component_shares == whole.component_shares
