"""Two other ways to compare groups at equal class shares, which need the class of each auxiliary row beside its image."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from purifybench.tasks import Task
from torch import Tensor, nn

from .balanced import BalancedPurified
from .plain import Run


class ToldClasses(BalancedPurified):
    """Purifying on balanced batches; what the regularizer takes for the network is told the classes of auxiliary rows.

    Args:
        run: as for every method.
        features: reads marked images, see `mark_classes`.
        feature_dim: width of what it gives.
        **options: of `Purified`.
    """

    def __init__(self, run: Run, features: nn.Module, feature_dim: int, **options: Any) -> None:
        stand_in: Any = SimpleNamespace(features=features, feature_dim=feature_dim)
        super().__init__(replace(run, network=stand_in, task=mark_classes(run.task)), **options)
        self.network = run.network


class WithinClass(ToldClasses):
    """Groups compared within each class: the critic reads the class beside the features, on balanced rows and batches."""

    def __init__(self, run: Run, **options: Any) -> None:
        n_classes = run.task.n_classes
        super().__init__(run, Told(run.network.features, n_classes), run.network.feature_dim + n_classes, **options)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.purify.critic_step()
        told = _beside(self.network.features(images), labels, self.network.head.out_features)
        scores = self.network.head(told[:, : self.network.feature_dim])
        return F.cross_entropy(scores, labels) + self.purify.loss(told)


class WeightedGap(ToldClasses):
    """Auxiliary rows as they come, and weights in the gap that make up for it: each row weighs one over the rows of its cell.

    The library has even draws in place of this; its formula for the weights is exchanged while a step runs.
    """

    def __init__(self, run: Run, **options: Any) -> None:
        self.reading = Told(run.network.features)
        super().__init__(run, self.reading, run.network.feature_dim, **options)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with (
            patch("wdpurify._auxiliary_step.gap_weights", self.weights_of_cells),
            patch("wdpurify.functional.gap_weights", self.weights_of_cells),
        ):
            return super().loss(images, labels)

    def weights_of_cells(self, groups: Tensor, population: Tensor, n_groups: int) -> Tensor:
        """What `gap_weights` is without classes: of shape ``(batch, n_groups)``, each column with sum zero."""
        cells = torch.stack([groups, self.reading.classes[0].to(groups.device)], 1)
        _, cell, count = cells.unique(dim=0, return_inverse=True, return_counts=True)
        each = 1.0 / count[cell]
        member = (groups[:, None] == torch.arange(n_groups, device=groups.device)) * each[:, None]
        whole = (population * each)[:, None]
        occurs = (member.sum(0) > 0) & (whole.sum() > 0)
        gap = member / member.sum(0).clamp(min=1e-12) - whole / whole.sum().clamp(min=1e-12)
        return gap * occurs / occurs.sum().clamp(min=1)


def mark_classes(task: Task) -> Task:
    """The task with the class of each auxiliary image as a fourth channel of one value, in which it travels with the image."""
    classes = task.auxiliary.classes
    assert classes is not None
    images = task.auxiliary.images
    channel = torch.tensor(classes, dtype=images.dtype)[:, None, None, None].expand(-1, 1, *images.shape[2:])
    return replace(task, auxiliary=replace(task.auxiliary, images=torch.cat([images, channel], 1)))


def read_classes(marked: Tensor) -> tuple[Tensor, Tensor]:
    """Images as they were, and their classes, of floats that `to_float` has made of marked bytes."""
    return marked[:, :3], ((marked[:, 3, 0, 0] + 1.0) * 127.5).round().long()


class Told(nn.Module):
    """Features of the image of a marked one.

    Args:
        features: of images.
        n_classes: to give the class beside them, as a unit vector; None leaves it out.

    Attributes:
        classes: of the last images, in a list of one.
    """

    def __init__(self, features: nn.Module, n_classes: int | None = None) -> None:
        super().__init__()
        self.features = features
        self.n_classes = n_classes
        self.classes: list[Tensor] = []

    def forward(self, marked: Tensor) -> Tensor:
        images, classes = read_classes(marked)
        self.classes[:] = [classes]
        found: Tensor = self.features(images)
        return found if self.n_classes is None else _beside(found, classes, self.n_classes)


def _beside(features: Tensor, classes: Tensor, n_classes: int) -> Tensor:
    return torch.cat([features, F.one_hot(classes, n_classes).to(features.dtype)], 1)
