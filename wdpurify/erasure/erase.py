"""Erases after training: fits the eraser, folds it into the classifier, and reports a probe's accuracy before and after."""

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wdpurify._checks import check_positive_integer
from wdpurify._sampler import Sampler
from wdpurify._torch import derive_seed, gather_objects, rank_and_world
from wdpurify.exceptions import ForeignHeadWarning
from wdpurify.features import AuxiliaryForward, Pool

from .affine import AffineLayer
from .eraser import Eraser, fit_eraser
from .head import check_labels, is_no_better_than_chance, refit
from .probe import decoded
from .rows import BatchUnpacker, Rows, auxiliary_rows, task_rows

#: Share of the auxiliary rows held out from the report's eraser.
HELD_OUT = 0.3
#: Margin above chance from which a report counts a label as readable.
CLEAR = 0.05


class ErasureReport(NamedTuple):
    """Balanced accuracy, in [0, 1], of a linear probe of the label on rows held out from its eraser.

    Attributes:
        before: accuracy on the original features.
        after: accuracy on the erased features; both are NaN if there are too few rows.
        chance: one over the number of label values. A value or a label with too few rows does not count. With several labels
            all three are means over them.
        directions: number of removed directions of the features.
        rows: number of different auxiliary rows.
        refitted: number of task rows in the classifier's refit; 0 without a refit.
    """

    before: float
    after: float
    chance: float
    directions: int
    rows: int
    refitted: int

    def __str__(self) -> str:
        text = f"A linear probe reads the label of {self.before:.1%} of the rows before erasing and {self.after:.1%} after it"
        count = f"{self.directions} direction{'' if self.directions == 1 else 's'} removed"
        if self.before != self.before:
            text = "The rows are too few to tell what a linear probe reads of the label"
        text = f"{text} (chance {self.chance:.1%}; {count}, {self.rows} different auxiliary rows)."
        if self.before < self.chance + CLEAR:
            text += (
                " The label was hardly readable before erasing, as it should be after purifying. Check that the groups are in "
                "the order of the rows if nothing was purified."
            )
        elif self.after > self.chance + CLEAR:
            text += " The label is still readable, because the rows are too few for a better fit. Use more auxiliary rows."
        return text


class Erasing:
    """Erases with one extractor and sampler.

    Args:
        forward: the extractor without side effects.
        sampler: draws the auxiliary rows.
        feature_dim, pool: width and token pooling of the features.
        seed: seed of the report's split.
    """

    def __init__(self, forward: AuxiliaryForward, sampler: Sampler, *, feature_dim: int, pool: Pool, seed: int) -> None:
        self._forward = forward
        self._sampler = sampler
        self._of_features: dict[str, Any] = {"feature_dim": feature_dim, "pool": pool}
        self._seed = seed

    @torch.inference_mode(False)
    def eraser(self, *, max_rows: int, through_origin: bool) -> Eraser:
        """Fit the map, see :func:`fit_eraser`, on at most ``max_rows`` auxiliary rows."""
        return fit_eraser(*self._rows(max_rows), through_origin=through_origin)

    @torch.inference_mode(False)
    def fold(
        self, head: nn.Module, batches: Iterable[Any] | None, *, max_rows: int, unpack: BatchUnpacker | None
    ) -> ErasureReport:
        """Fold the map into a classifier; arguments and errors as in ``PurifyRegularizer.erase``."""
        layer = AffineLayer(head, self._forward.model)
        if layer.dim != self._of_features["feature_dim"]:
            raise ValueError(
                f"`head` must read the {self._of_features['feature_dim']} purified features, got a layer with {layer.dim} "
                "inputs. Give the layer that reads these features"
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
                    "`head` predicts these rows no better than their most frequent class, so it may not be trained, or not "
                    "read the purified features. Give the layer that reads them, after training",
                    ForeignHeadWarning,
                    stacklevel=4,
                )
            weight, bias = refit(eraser(features), labels, weight, bias)
            refitted = len(labels)
        before, after, chance = _leakage(rows, self._seed)
        layer.write(*self._agreed(_folded(eraser, weight, bias)))
        return ErasureReport(before, after, chance, eraser.rank, len(rows.groups), refitted)

    @property
    def _world(self) -> int:
        return rank_and_world()[1] if getattr(self._sampler, "across_ranks", True) else 1

    def _rows(self, max_rows: int) -> Rows:
        check_positive_integer("max_rows", max_rows)
        return auxiliary_rows(self._forward, self._sampler, max_rows=max_rows, world=self._world, **self._of_features)

    def _agreed(self, folded: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        """Return the first rank's result on every rank, because rounding may differ between ranks."""
        if self._world == 1:
            return folded
        first: tuple[Tensor, Tensor | None] = gather_objects(folded, device=self._forward.place()[0])[0]
        return first


def _folded(eraser: Eraser, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return matrix and bias of the classifier that maps original features to the scores of the erased ones."""
    removed, read, mean = (each.double() for each in (eraser.removed, eraser.read, eraser.mean))
    seen = weight @ removed
    return weight - seen @ read.T, None if bias is None else bias + seen @ (read.T @ mean)


def _leakage(rows: Rows, seed: int) -> tuple[float, float, float]:
    """Accuracy before and after erasing, and chance: means over the labels of which both parts hold two values or more."""
    generator = torch.Generator("cpu").manual_seed(derive_seed(seed, "held-out rows"))
    order = torch.randperm(len(rows.groups), generator=generator)
    cut = round(HELD_OUT * len(order))
    held_out, fitted = rows.part(order[:cut]), rows.part(order[cut:])
    erasable = torch.tensor([len(each.groups.unique()) > 1 for each in fitted.of_each_label()])
    figures = []
    if erasable.any():
        held_out, fitted = held_out.with_labels(erasable), fitted.with_labels(erasable)
        erased = held_out._replace(features=fit_eraser(*fitted)(held_out.features))
        before, after = ([decoded(*each) for each in part.of_each_label()] for part in (held_out, erased))
        figures = [(old, new, chance) for (old, chance), (new, _) in zip(before, after, strict=True) if chance == chance]
    if not figures:
        values = [count for each in rows.of_each_label() if (count := len(each.groups.unique())) > 1]
        return float("nan"), float("nan"), sum(1.0 / count for count in values) / len(values)
    old, new, chance = (sum(each) / len(figures) for each in zip(*figures, strict=True))
    return old, new, chance
