"""Rows drawn as they are, and weights in the gap that make up for it: the other way to compare groups at equal class shares."""

from typing import Any
from unittest.mock import patch

import torch
from purifybench.network import Network
from purifybench.tasks import Task
from torch import Tensor, nn

from .balanced import BalancedPurified
from .within_class import mark_classes, read_classes


class WeightedGap(BalancedPurified):
    """Purifying on balanced batches and on auxiliary rows as they come, each of which weighs one over the rows of its cell.

    The library has even draws in place of this; its formula for the weights is exchanged while a step runs.
    """

    def __init__(self, network: Network, task: Task, *, seed: int, device: torch.device, steps: int, **options: Any) -> None:
        self.reading = _Reading(network)
        stand_in: Any = self.reading
        super().__init__(stand_in, mark_classes(task), seed=seed, device=device, steps=steps, **options)
        self.network = network

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


class _Reading(nn.Module):
    """What `Purified` takes of a network; its features are of the image alone, and the classes are kept aside."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.features = _ReadingFeatures(network.features)
        self.feature_dim = network.feature_dim

    @property
    def classes(self) -> list[Tensor]:
        """The classes of the last images, in a list of one."""
        return self.features.classes


class _ReadingFeatures(nn.Module):
    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.classes: list[Tensor] = []

    def forward(self, marked: Tensor) -> Tensor:
        images, classes = read_classes(marked)
        self.classes[:] = [classes]
        found: Tensor = self.features(images)
        return found
