"""Sliced Wasserstein: groups are to have the same distribution of features along random directions."""

from typing import Any, ClassVar

from torch import Tensor

from .group_matching import GroupMatching

PROJECTIONS = 50


class SlicedWasserstein(GroupMatching):
    """The task loss and the sliced W1 distance between groups; see `GroupMatching` for the arguments.

    Directions are drawn anew in every step.

    Source: Bonneel et al. 2015, J. Math. Imaging Vis. 51, as POT computes it; p = 1, whose gradient is bounded.
    """

    #: In ascending order: of equally good weights the first is chosen, which changes least.
    GRID: ClassVar = {"weight": (0.03, 0.1, 0.3, 1.0)}

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, distance=self.sliced_distance, **options)

    def sliced_distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Mean W1 distance of the projections of features ``(rows, dim)``, in the directions of this step."""
        import ot  # here, as it takes long and the other methods do without

        step = self.sampler.state_dict()["drawn"]
        distance: Tensor = ot.sliced_wasserstein_distance(first, second, n_projections=PROJECTIONS, p=1, seed=step)
        return distance
