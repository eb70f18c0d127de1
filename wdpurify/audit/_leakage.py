"""How well a label can be read off features: the audit's "is it there", and "did it work" after purifying."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_predict, permutation_test_score
from torch import Tensor, nn

from wdpurify._checks import check_positive_integer
from wdpurify._labels import labels_of_rows
from wdpurify._torch import derive_seed, private_randomness

from ._columns import describe_column
from ._extractor import Extractor
from ._probe import folds, linear_probe, recall_error


@dataclass(frozen=True)
class Leakage:
    """How well a label is decoded from features by a linear probe.

    Attributes:
        balanced_accuracy: of the probe, cross-validated; in [0, 1].
        low, high: 95 % interval over rows.
        baseline: mean balanced accuracy with permuted labels; about one over the number of values.
        p_value: share of permutations that do as well or better, the real labelling counted in.
        permutations: how many.
        values: number of label values.
        rows: how many rows were used.
    """

    balanced_accuracy: float
    low: float
    high: float
    baseline: float
    p_value: float
    permutations: int
    values: int
    rows: int

    def __str__(self) -> str:
        accuracy, low, high, base = (100 * x for x in (self.balanced_accuracy, self.low, self.high, self.baseline))
        return f"{accuracy:.1f} % ({low:.1f} to {high:.1f}), permuted {base:.1f} %, p = {self.p_value:.3f}"


def leakage(
    model: nn.Module | None,
    images: Tensor,
    groups: Sequence[Any] | Tensor,
    *,
    layer: str | None = None,
    features: Callable[[Any, Tensor], Tensor] | None = None,
    permutations: int = 100,
    max_rows: int = 1000,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Leakage:
    """How well a linear probe decodes a label from what a model's classifier reads.

    Logistic regression on standardised features, five folds, balanced accuracy; the same with permuted labels. Use it before
    and after purifying, with the same rows and seed. The model is copied, never run or changed itself.

    Args:
        model: any model; None if ``images`` are features.
        images: ``(rows, ...)``, prepared like the model's own, or features ``(rows, dim)``.
        groups: label per row; rows where it is None or NaN, and values with fewer than ten rows, are left out.
        layer: name of the layer whose input is the features; None finds the classifier.
        features: ``features(model, images)``, in place of ``layer``; ``lambda model, images: model(images)`` for a model that
            returns features.
        permutations: the smallest p value possible is one over one more than this.
        max_rows: of more rows, so many are drawn.
        device: where to run; None stays with the model.
        seed: draws rows, folds and permutations.

    Raises:
        ValueError: if lengths differ, or fewer than two values have ten rows.
        TypeError: if ``images`` is no floating point tensor.

    >>> import torch
    >>> from wdpurify.audit import leakage
    >>> groups = torch.arange(100) % 2
    >>> features = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    >>> leakage(None, features + 3 * groups[:, None], groups).p_value < 0.05
    True
    """
    check_positive_integer("permutations", permutations)
    check_positive_integer("max_rows", max_rows)
    if not isinstance(images, Tensor) or not images.is_floating_point():
        came = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"`images` must be a floating point tensor, got {came}")
    if len(images) != len(groups):
        raise ValueError(f"`groups` must have one label per row of `images`, got {len(groups)} labels for {len(images)} rows")
    column, codes, _ = describe_column("groups", labels_of_rows(groups))
    if column.problem:
        raise ValueError(f"`groups` must have two values or more to tell apart, got: {column.problem}")
    rows = drawn((codes >= 0).nonzero()[:, 0], max_rows, seed)
    if model is None:
        if features is not None or layer is not None or images.ndim != 2:
            raise ValueError(f"`images` must be features of shape (rows, dim) without a `model`, got {tuple(images.shape)}")
        found = images[rows].detach().float().cpu()
    else:
        with private_randomness(torch.device(device or "cpu"), derive_seed(seed, "leakage")):
            found = Extractor(model, layer=layer, features=features, device=device).all_features(images[rows])
    return decoded(found, codes[rows], permutations=permutations, seed=seed)


def drawn(rows: Tensor, count: int, seed: int) -> Tensor:
    """``rows``, or ``count`` of them in order."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "rows"))
    chosen = torch.randperm(len(rows), generator=generator)[:count].sort().values
    return rows[chosen.to(rows.device)]


def decoded(features: Tensor, codes: Tensor, *, permutations: int, seed: int) -> Leakage:
    """Leakage of labels ``(rows,)`` in features ``(rows, dim)``, both on the CPU."""
    counts = torch.bincount(codes)
    if int(counts[counts > 0].min()) < 5:
        raise ValueError(f"`groups` must have five rows per value among those drawn, got {counts.tolist()}: raise `max_rows`")
    data = features.numpy()
    labels = codes.numpy()
    split = folds(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a probe of permuted labels, which have no good fit
        score, permuted, p_value = permutation_test_score(
            linear_probe(),
            data,
            labels,
            cv=split,
            scoring="balanced_accuracy",
            n_permutations=permutations,
            random_state=seed % 2**32,
        )
        hits = torch.from_numpy(np.asarray(cross_val_predict(linear_probe(), data, labels, cv=split) == labels))
    margin = 1.96 * recall_error(hits, codes)
    low = max(0.0, float(score) - margin)
    high = min(1.0, float(score) + margin)
    used = int((counts > 0).sum())
    return Leakage(float(score), low, high, float(np.mean(permuted)), float(p_value), permutations, used, len(labels))
