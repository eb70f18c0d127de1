"""LEACE as an opponent: what it leaves of the nuisance, and a head that fits what is left."""

import pytest
import torch
from purifybench.methods.concept_erasure import ConceptErasure
from purifybench.network import Network
from purifybench.tasks import Auxiliary, Split, Task
from purifybench.tasks._types import to_float
from sklearn.linear_model import LogisticRegression
from torch import nn


class _Corners(nn.Module):
    """Four pixels as features."""

    def forward(self, images):
        return images[:, 0, ::3, ::3].flatten(1)


@pytest.fixture
def erased():
    """Class in the first pixel, nuisance in the last, both visible in the features before they are erased."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(100, 156, (240, 3, 4, 4), dtype=torch.uint8, generator=generator)
    labels, groups = torch.arange(240) % 2, torch.arange(240) // 2 % 2
    images[:, :, 0, 0] += (60 * labels)[:, None].to(torch.uint8)
    images[:, :, 3, 3] += (60 * groups)[:, None].to(torch.uint8)
    rows = Split(images, labels, groups)
    auxiliary = Auxiliary(images, [f"hospital {group}" for group in groups.tolist()], fixed="hospital 0")
    task = Task("corners", 2, rows, rows, {"clean": rows}, auxiliary)
    network = Network(_Corners(), 2, feature_dim=4)
    before = network.features(to_float(images))
    ConceptErasure(network, task, seed=0, device=torch.device("cpu"), steps=1).finish()
    return network, rows, before


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
