"""CORAL: groups are to have the same mean and covariance of features."""

from typing import Any, ClassVar

from torch import Tensor

from .group_matching import GroupMatching


class Coral(GroupMatching):
    """The task loss and the CORAL distance between groups; see `GroupMatching` for the arguments."""

    #: In ascending order: of equally good weights the first is chosen, which changes least.
    GRID: ClassVar = {"weight": (0.1, 1.0, 10.0, 100.0)}

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, distance=coral_distance, **options)


def coral_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of the means, plus that of the covariances.

    Args:
        first, second: features, shape ``(rows, dim)``, two rows at least.

    Returns:
        A scalar, at least 0.

    Source: Sun and Saenko 2016, arXiv:1607.01719, Eq. 1 (up to a factor of 4); with the means, as in DomainBed (Gulrajani and
    Lopez-Paz 2021, arXiv:2007.01434).
    """
    means = (first.mean(0) - second.mean(0)).square().mean()
    return means + (_covariance(first) - _covariance(second)).square().mean()


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(0, keepdim=True)
    return centred.T @ centred / (len(features) - 1)
