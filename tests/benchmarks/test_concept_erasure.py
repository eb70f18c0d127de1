"""LEACE as an opponent, what it leaves of the nuisance, and heads that are fitted anew."""

from dataclasses import replace

import pytest
import torch
from purifybench.methods import Run
from purifybench.methods.fitted import ConceptErasure, UnbiasedHead
from purifybench.network import Network
from purifybench.tasks import Auxiliary, Split, Task, to_float
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.testing import assert_close


class _Corners(nn.Module):
    """Four pixels as features."""

    def forward(self, images):
        return images[:, 0, ::3, ::3].flatten(1)


@pytest.fixture
def corners():
    """Class in the first pixel, nuisance in the last, both visible in the features of the network."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(100, 156, (240, 3, 4, 4), dtype=torch.uint8, generator=generator)
    labels, groups = torch.arange(240) % 2, torch.arange(240) // 2 % 2
    images[:, :, 0, 0] += (60 * labels)[:, None].to(torch.uint8)
    images[:, :, 3, 3] += (60 * groups)[:, None].to(torch.uint8)
    rows = Split(images, labels, groups)
    auxiliary = Auxiliary(images, [f"hospital {group}" for group in groups.tolist()], fixed="hospital 0")
    return Task("corners", 2, rows, rows, {"clean": rows}, auxiliary), Network(_Corners(), 2, feature_dim=4)


@pytest.fixture
def erased(corners):
    task, network = corners
    before = network.features(to_float(task.train.images))
    ConceptErasure(Run(network, task)).finish()
    return network, task.train, before


def test_a_linear_probe_reads_the_nuisance_before_and_not_after(erased):
    network, rows, before = erased
    after = network.features(to_float(rows.images))
    probe = lambda features: LogisticRegression().fit(features, rows.groups).score(features, rows.groups)  # noqa: E731
    assert probe(before) > 0.95
    assert probe(after.detach()) < 0.6


def test_the_new_head_reads_the_class_from_what_is_left(erased):
    network, rows, _ = erased
    hits = network(to_float(rows.images)).argmax(1) == rows.labels
    assert hits.float().mean() > 0.95


def test_a_head_that_is_kept_no_longer_reads_the_nuisance(corners):
    task, network = corners
    images = to_float(task.train.images)
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[-1.0, 0.0, 0.0, -2.0], [1.0, 0.0, 0.0, 2.0]]))
        network.head.bias.copy_(-network.head.weight @ network.features(images).mean(0))
    head = network.head.weight.detach().clone()
    right = lambda: (network(images).argmax(1) == task.train.labels).float().mean()  # noqa: E731
    before = right()
    ConceptErasure(Run(network, task), refit=False).finish()
    assert_close(network.head.weight, head, rtol=0, atol=0)
    assert before < 0.8
    assert right() > 0.95


def test_a_head_is_fitted_on_the_rows_without_the_bias_and_the_features_stay(corners):
    task, network = corners
    images = to_float(task.train.images)
    features = network.features(images)
    swapped = Split(task.train.images, 1 - task.train.labels)
    method = UnbiasedHead(Run(network, replace(task, oracle=swapped)))
    assert method.finish() == {}
    assert_close(network.features(images), features, rtol=0, atol=0)
    assert (network(images).argmax(1) == swapped.labels).float().mean() > 0.95


def test_without_such_rows_it_is_refused(corners):
    task, network = corners
    with pytest.raises(ValueError, match="corners has no rows without the bias"):
        UnbiasedHead(Run(network, task))
