"""Matching of groups: the task loss and a distance between the features of every two groups of auxiliary rows."""

import itertools
from typing import ClassVar

import torch
from torch import Tensor

from .auxiliary import AuxiliaryTerm

#: Factors of the squared distance in MMD's kernels, over its mean in the batch: so features of any scale are told apart.
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
#: Directions of the sliced Wasserstein distance.
PROJECTIONS = 50


class GroupMatching(AuxiliaryTerm):
    """The task loss and the mean distance over all pairs of groups that have two rows at least; 0 where there is none."""

    GRID: ClassVar = {"weight": (0.03, 0.1, 0.3, 1.0)}

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Of features ``(rows, dim)`` of two groups, two rows at least, a scalar."""
        raise NotImplementedError

    def term(self, features: Tensor, groups: Tensor) -> Tensor:
        members = [features[groups == group] for group in groups.unique()]
        pairs = list(itertools.combinations([rows for rows in members if len(rows) > 1], 2))
        if not pairs:
            return features.sum() * 0.0
        return torch.stack([self.distance(first, second) for first, second in pairs]).mean()


class Coral(GroupMatching):
    """Groups are to have the same mean and covariance: mean squared difference of the means, plus that of the covariances.

    Source: Sun and Saenko 2016, arXiv:1607.01719, Eq. 1 (up to a factor of 4); with the means, as in DomainBed (Gulrajani and
    Lopez-Paz 2021, arXiv:2007.01434).
    """

    GRID: ClassVar = {"weight": (0.1, 1.0, 10.0, 100.0)}

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        means = (first.mean(0) - second.mean(0)).square().mean()
        return means + (torch.cov(first.T) - torch.cov(second.T)).square().mean()


class MaximumMeanDiscrepancy(GroupMatching):
    """Groups are to have the same mean embedding: squared MMD in [0, 2], the biased estimate, averaged over Gaussian kernels.

    Source: Gretton et al. 2012, JMLR 13, Eq. 5; Long et al. 2015, arXiv:1502.02791, for the mixture of kernels. Ours: the
    bandwidths follow the mean squared distance of the rows at hand.
    """

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        rows = torch.cat([first, second])
        squares = rows.square().sum(1)
        distances = (squares[:, None] + squares[None] - 2.0 * rows @ rows.T).clamp(min=0.0)
        scale = distances.detach().mean().clamp(min=1e-12)
        kernel = torch.stack([torch.exp(-factor * distances / scale) for factor in BANDWIDTHS]).mean(0)
        count = len(first)
        return kernel[:count, :count].mean() + kernel[count:, count:].mean() - 2.0 * kernel[:count, count:].mean()


class SlicedWasserstein(GroupMatching):
    """Groups are to have the same distribution along random directions, which are drawn anew in every step: mean W1.

    Source: Bonneel et al. 2015, J. Math. Imaging Vis. 51, as POT computes it; p = 1, whose gradient is bounded.
    """

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        import ot  # here, as it takes long and the other methods do without

        step = self.sampler.state_dict()["drawn"]
        distance: Tensor = ot.sliced_wasserstein_distance(first, second, n_projections=PROJECTIONS, p=1, seed=step)
        return distance
