"""Measures how well a linear probe decodes a label from features."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify._checks import check_positive_integer
from wdpurify._labels import labels_of_rows
from wdpurify._nuisances import columns_of_labels
from wdpurify._renamed import renamed
from wdpurify._rows import Collator
from wdpurify._torch import derive_seed, private_randomness

from ._columns import cut, describe_column
from ._discriminant import recalls_across
from ._extractor import Extractor
from ._inputs import Inputs, features_of
from ._probe import recall_error
from ._text import shown


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


class Leakages(dict[Hashable, Leakage]):
    """A :class:`Leakage` for each of several labels, by name; prints one line each."""

    def __str__(self) -> str:
        return "\n".join(f"{shown(str(name))}: {found}" for name, found in self.items())


@renamed("images", "rows")
def leakage(
    model: nn.Module | None,
    rows: Any,
    groups: Any,
    *,
    layer: str | None = None,
    features: Callable[[Any, Any], Tensor] | None = None,
    collate_fn: Collator | None = None,
    transform: Callable[[Any], Any] | None = None,
    permutations: int = 100,
    max_rows: int = 1000,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Any:
    """How well a linear probe decodes a label from what a model's classifier reads.

    A linear discriminant on standardised features, five folds, balanced accuracy; the same with permuted labels. Use it before
    and after purifying, with the same rows and seed. The model is copied, never run or changed itself. The time goes into the
    forward passes, for which a terminal shows a bar; the probe takes about a second.

    Args:
        model: any module; None if ``rows`` are features.
        rows: what :class:`wdpurify.GroupSampler` takes, prepared like the model's own: pictures, vectors, texts, a data set;
            or features ``(rows, dim)``.
        groups: label per row; rows where it is None or NaN, and values with fewer than ten rows, are left out. A column of
            numbers, such as an age, is cut into four ranges. Or several labels, as columns of a data frame or of a mapping.
        layer: name of the layer whose input is the features; None finds the classifier.
        features: ``features(model, batch)``, in place of ``layer``; ``lambda model, batch: model(batch)`` for a model that
            returns features.
        collate_fn, transform: as for :class:`wdpurify.GroupSampler`: make a batch of the list of items, and change it.
        permutations: the smallest p value possible is one over one more than this.
        max_rows: of more rows, so many are drawn.
        device: where to run; None stays with the model.
        seed: draws rows, folds and permutations.

    Returns:
        A :class:`Leakage`; of several labels one for each, by name.

    Raises:
        ValueError: if lengths differ, or fewer than two values have ten rows.
        TypeError: if ``rows`` cannot be read by number, or are no features where there is no model.

    >>> import torch
    >>> from wdpurify.audit import leakage
    >>> groups = torch.arange(100) % 2
    >>> features = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    >>> leakage(None, features + 3 * groups[:, None], groups).p_value < 0.05
    True
    """
    check_positive_integer("permutations", permutations)
    check_positive_integer("max_rows", max_rows)
    if model is None and (features is not None or layer is not None):
        raise ValueError("`layer` and `features` say where a model's features come from, got no `model`. Give one")
    inputs = Inputs(rows, collate_fn=collate_fn, transform=transform)
    several = columns_of_labels(groups, len(inputs))
    columns = {"groups": labels_of_rows(groups)} if several is None else several
    codes = {}
    for name, cells in columns.items():
        if len(cells) != len(inputs):
            raise ValueError(f"`groups` must have one label per row of `rows`, got {len(cells)} labels for {len(inputs)} rows")
        column, codes[name], _ = describe_column(
            str(name), cut(cells, "`groups`" if several is None else f"`groups`, column {name!r},")
        )
        if column.problem:
            where = "" if several is None else f" in column {name!r}"
            raise ValueError(f"`groups` must have two values or more to tell apart, got{where}: {column.problem}")
    used = drawn((torch.stack(list(codes.values())) >= 0).any(0).nonzero()[:, 0], max_rows, seed)
    found = read_features(model, inputs.part(used), layer=layer, features=features, device=device, seed=seed)
    measured = {}
    for name, numbers in codes.items():
        known = numbers[used] >= 0
        measured[name] = decoded(found[known], numbers[used][known], permutations=permutations, seed=seed)
    return measured["groups"] if several is None else Leakages(measured)


def read_features(
    model: nn.Module | None,
    inputs: Inputs,
    *,
    layer: str | None,
    features: Callable[[Any, Any], Tensor] | None,
    device: torch.device | str | None,
    seed: int,
) -> Tensor:
    """Compute the features of rows, ``(rows, dim)``, on the CPU; without a model the rows are the features."""
    with private_randomness(torch.device(device or "cpu"), derive_seed(seed, "leakage")):
        if model is None:
            return features_of(inputs)
        return Extractor(model, layer=layer, features=features, device=device).all_features(inputs, bar=True)


def drawn(rows: Tensor, count: int, seed: int) -> Tensor:
    """``rows``, or ``count`` of them in order."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "rows"))
    chosen = torch.randperm(len(rows), generator=generator)[:count].sort().values
    return rows[chosen.to(rows.device)]


def decoded(features: Tensor, codes: Tensor, *, permutations: int, seed: int) -> Leakage:
    """Measure the leakage of labels ``(rows,)`` in features ``(rows, dim)``, both on the CPU."""
    counts = torch.bincount(codes)
    if int(counts[counts > 0].min()) < 5:
        raise ValueError(f"`groups` must have five rows per value among those drawn, got {counts.tolist()}: raise `max_rows`")
    hits, scores = recalls_across(features, codes, permutations=permutations, seed=seed)
    score, permuted = scores[0], scores[1:]
    p_value = (1 + int((permuted >= score - 1e-12).sum())) / (1 + permutations)
    margin = 1.96 * recall_error(hits, codes)
    low = max(0.0, float(score) - margin)
    high = min(1.0, float(score) + margin)
    used = int((counts > 0).sum())
    return Leakage(float(score), low, high, float(permuted.mean()), p_value, permutations, used, len(codes))
