"""Groups compared within each class: a critic that is told the class of each row."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from purifybench.network import Network
from purifybench.tasks import Task
from torch import Tensor, nn

from .balanced import BalancedPurified


class WithinClass(BalancedPurified):
    """Purifying on balanced rows and batches, the critic reading the class beside the features."""

    def __init__(self, network: Network, task: Task, *, seed: int, device: torch.device, steps: int, **options: Any) -> None:
        told: Any = _Told(network, task.n_classes)
        super().__init__(told, mark_classes(task), seed=seed, device=device, steps=steps, **options)
        self.network = network

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.purify.critic_step()
        told = _beside(self.network.features(images), labels, self.network.head.out_features)
        scores = self.network.head(told[:, : self.network.feature_dim])
        return F.cross_entropy(scores, labels) + self.purify.loss(told)


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


class _Told(nn.Module):
    """What `Purified` takes of a network, whose features are those of the image beside its class."""

    def __init__(self, network: Network, n_classes: int) -> None:
        super().__init__()
        self.features = _ToldFeatures(network.features, n_classes)
        self.feature_dim = network.feature_dim + n_classes


class _ToldFeatures(nn.Module):
    def __init__(self, features: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.features = features
        self.n_classes = n_classes

    def forward(self, marked: Tensor) -> Tensor:
        images, classes = read_classes(marked)
        return _beside(self.features(images), classes, self.n_classes)


def _beside(features: Tensor, classes: Tensor, n_classes: int) -> Tensor:
    return torch.cat([features, F.one_hot(classes, n_classes).to(features.dtype)], 1)
