"""Erasing after training: fit the eraser, fold it into the classifier, say what a probe still reads."""

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wdpurify._checks import check_positive_integer
from wdpurify._sampler import Sampler
from wdpurify._torch import derive_seed, of_every_rank, rank_and_world
from wdpurify.exceptions import ForeignHeadWarning
from wdpurify.features import AuxiliaryForward, Pool

from .affine import AffineLayer
from .eraser import Eraser, fit_eraser
from .head import check_labels, is_no_better_than_chance, refit
from .probe import decoded
from .rows import BatchUnpacker, Rows, auxiliary_rows, task_rows

#: Share of the auxiliary rows that the eraser of the report is not fitted on.
HELD_OUT = 0.3
#: Balanced accuracy above chance from which a report counts a label as read.
CLEAR = 0.05


class ErasureReport(NamedTuple):
    """What a linear probe reads of the label, as balanced accuracy in [0, 1], on rows that its eraser was not fitted on.

    Attributes:
        before: from the features as they are.
        after: from the erased features; NaN, as ``before``, where there are too few rows to tell.
        chance: one over the number of label values.
        directions: how many directions of the features were removed.
        rows: how many different auxiliary rows were read.
        refitted: how many task rows the classifier was fitted on; 0 where its weights were kept.
    """

    before: float
    after: float
    chance: float
    directions: int
    rows: int
    refitted: int

    def __str__(self) -> str:
        told = f"A linear probe reads the label off {self.before:.1%} of the rows before and {self.after:.1%} after erasing"
        count = f"{self.directions} direction{'' if self.directions == 1 else 's'} removed"
        told = f"{told} (chance {self.chance:.1%}; {count}, {self.rows} different auxiliary rows)."
        if self.before < self.chance + CLEAR:
            told += " It read next to nothing before: are the groups in the order of the rows?"
        elif self.after > self.chance + CLEAR:
            told += " What is left is beyond what so few rows can tell: more auxiliary rows would remove more."
        return told


class Erasing:
    """Erasing for one extractor and sampler.

    Args:
        forward: the extractor without side effects.
        sampler: draws the auxiliary rows.
        feature_dim, pool: of the features.
        seed: of the split that the report is made of.
    """

    def __init__(self, forward: AuxiliaryForward, sampler: Sampler, *, feature_dim: int, pool: Pool, seed: int) -> None:
        self._forward = forward
        self._sampler = sampler
        self._of_features: dict[str, Any] = {"feature_dim": feature_dim, "pool": pool}
        self._seed = seed

    def eraser(self, *, max_rows: int, through_origin: bool) -> Eraser:
        """The map, see :func:`fit_eraser`, from at most ``max_rows`` auxiliary rows."""
        return fit_eraser(*self._rows(max_rows), through_origin=through_origin)

    def fold(
        self, head: nn.Module, batches: Iterable[Any] | None, *, max_rows: int, unpack: BatchUnpacker | None
    ) -> ErasureReport:
        """Fold the map into a classifier; arguments and errors as those of ``PurifyRegularizer.erase``."""
        layer = AffineLayer(head, self._forward.model)
        if layer.dim != self._of_features["feature_dim"]:
            raise ValueError(
                f"`head` must read the {self._of_features['feature_dim']} features that are purified, it reads {layer.dim}"
            )
        rows = self._rows(max_rows)
        eraser = fit_eraser(*rows, through_origin=not layer.has_bias)
        weight, bias, refitted = layer.weight, layer.bias, 0
        if batches is not None:
            read = {"max_rows": max_rows, "unpack": unpack, "world": self._world, **self._of_features}
            features, labels = task_rows(self._forward, batches, layer, **read)
            labels = check_labels(labels, len(weight))
            if self._forward.tap is None and is_no_better_than_chance(layer(features), labels):
                warnings.warn(
                    "`head` predicts these rows no better than their most frequent class. It may not read the features that "
                    "are purified, or not be trained: give the layer that reads them, after training",
                    ForeignHeadWarning,
                    stacklevel=3,
                )
            weight, bias = refit(eraser(features), labels, weight, bias)
            refitted = len(labels)
        before, after = _leakage(rows, self._seed)
        layer.write(*self._agreed(_folded(eraser, weight, bias)))
        return ErasureReport(before, after, 1.0 / len(rows.groups.unique()), eraser.rank, len(rows.groups), refitted)

    @property
    def _world(self) -> int:
        return rank_and_world()[1] if getattr(self._sampler, "across_ranks", True) else 1

    def _rows(self, max_rows: int) -> Rows:
        check_positive_integer("max_rows", max_rows)
        return auxiliary_rows(self._forward, self._sampler, max_rows=max_rows, world=self._world, **self._of_features)

    def _agreed(self, folded: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        """The first rank's, whatever the ranks' arithmetic."""
        if self._world == 1:
            return folded
        first: tuple[Tensor, Tensor | None] = of_every_rank(folded, device=self._forward.place()[0])[0]
        return first


def _folded(eraser: Eraser, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Matrix and bias of the classifier that reads features as they are and gives the scores of erased ones."""
    removed, read, mean = (each.double() for each in (eraser.removed, eraser.read, eraser.mean))
    seen = weight @ removed
    return weight - seen @ read.T, None if bias is None else bias + seen @ (read.T @ mean)


def _leakage(rows: Rows, seed: int) -> tuple[float, float]:
    generator = torch.Generator("cpu").manual_seed(derive_seed(seed, "held-out rows"))
    order = torch.randperm(len(rows.groups), generator=generator)
    cut = round(HELD_OUT * len(order))
    held_out, fitted = rows.part(order[:cut]), rows.part(order[cut:])
    if len(fitted.groups.unique()) < 2:
        return float("nan"), float("nan")
    eraser = fit_eraser(*fitted)
    before = decoded(*held_out)
    return before, decoded(eraser(held_out.features), held_out.groups, held_out.weights)
