"""Compares models on the same held-out rows: accuracy, accuracy per cell of class and nuisance, and leakage."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify._labels import labels_of_rows
from wdpurify._nuisances import columns_of_labels
from wdpurify._rows import Collator
from wdpurify.erasure import are_close, scores_in
from wdpurify.features import call_with
from wdpurify.features.classifier import find_classifier

from ._columns import cut
from ._inputs import Inputs
from ._leakage import leakage, read_features
from ._optional import optional


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found, in percent.

    Attributes:
        table: data frame with a row per model: ``accuracy`` over all rows, ``mean over cells`` and ``worst cell`` of class and
            nuisance, ``leakage`` of the nuisance from the features, ``output leakage`` from the outputs, and ``chance``. The
            second sees what was erased inside the classifier. With several nuisances a row per nuisance and model.
        cells: data frame of the accuracy per class and nuisance, with a column per model and the number of ``rows``
            (``number of rows`` beside a model of the name "rows").
    """

    table: Any
    cells: Any

    def __str__(self) -> str:
        return str(self.table.round(1).to_string())

    def _repr_html_(self) -> str:
        return str(self.table.round(1).to_html())


def compare(
    models: Mapping[str, nn.Module],
    rows: Any,
    labels: Sequence[Any] | Tensor,
    groups: Any,
    *,
    classes: Sequence[Any] | None = None,
    layer: str | None = None,
    features: Callable[[Any, Any], Tensor] | None = None,
    collate_fn: Collator | None = None,
    transform: Callable[[Any], Any] | None = None,
    max_rows: int = 1000,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Comparison:
    """Measure models on rows that took no part in training or purifying: accuracy, its worst cell, and the leakage.

    A cell is a pair of class and nuisance. Where training rows are biased, rare cells tell whether the bias was learned. The
    models are copied, never run or changed themselves.

    Args:
        models: classifiers by name, such as ``{"plain": model, "purified": other}``. They return scores or probabilities, a
            tuple that begins with them, or an entry or attribute ``logits``.
        rows: what :class:`wdpurify.GroupSampler` takes, prepared like the models' own.
        labels: class per row: the number of the model's output, or one of ``classes``.
        groups: nuisance per row, or several as columns of a data frame or of a mapping, as for :func:`leakage`.
        classes: what ``labels`` holds, in the order of the model's outputs; None for numbers.
        layer, features, collate_fn, transform, device, seed: as for :func:`leakage`.
        max_rows: rows that the leakage is measured on; accuracies are of all rows.

    Raises:
        ValueError: if there is no model, lengths differ, or a label is no output of the model.
        TypeError: if a model returns no scores.

    >>> from wdpurify.audit import compare
    >>> rows, hair = torch.eye(2).repeat(20, 1), list("ab") * 20
    >>> found = compare({"net": nn.Linear(2, 2)}, rows, [0, 0, 1, 1] * 10, hair)
    >>> list(found.table), found.cells["rows"].tolist()
    (['accuracy', 'mean over cells', 'worst cell', 'leakage', 'output leakage', 'chance'], [10, 10, 10, 10])
    """
    pandas = optional("pandas", "the table")
    if not models:
        raise ValueError("`models` must name at least one model, got none. Give {name: model}")
    inputs = Inputs(rows, collate_fn=collate_fn, transform=transform)
    truth = labels_of_rows(labels, "labels")
    classes = None if classes is None else list(classes)
    places = truth if classes is None else [classes.index(label) if label in classes else -1 for label in truth]
    several = columns_of_labels(groups, len(inputs))
    called = {name: "`groups`" if several is None else f"`groups`, column {name!r}," for name in several or ["nuisance"]}
    columns = {name: cut(cells, called[name]) for name, cells in (several or {"nuisance": labels_of_rows(groups)}).items()}
    if lengths := {len(cells) for cells in (truth, *columns.values())} - {len(inputs)}:
        raise ValueError(f"`labels` and `groups` must have one entry per row, got {lengths.pop()} for {len(inputs)} rows")
    options: dict[str, Any] = {"layer": layer, "features": features, "device": device, "seed": seed}
    hits, leaks, told = {}, {}, {}
    for name, model in models.items():
        read = _Scores(name)
        scores = read_features(model, inputs, layer=None, features=read, device=device, seed=seed)
        guessed = scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > read.limit(scores)).long()
        outputs = range(max(2, scores.shape[1]))
        if unknown := [label for label, place in zip(truth, places, strict=True) if place not in outputs]:
            raise ValueError(
                f"`labels` must be numbers of the {len(outputs)} outputs of {name!r}, got {unknown[0]!r}. Give `classes`, the "
                "labels in the order of the outputs"
            )
        hits[name] = (100.0 * (guessed == torch.tensor(places))).tolist()
        leaks[name] = leakage(model, rows, columns, collate_fn=collate_fn, transform=transform, max_rows=max_rows, **options)
        told[name] = leakage(None, scores, columns, max_rows=max_rows, seed=seed)
    tables, cells = {}, {}
    for nuisance, values in columns.items():
        by = [pandas.Series(_sortable(truth), name="class"), pandas.Series(_sortable(values), name="nuisance")]
        frame = pandas.DataFrame(hits).groupby(by)
        accuracies = frame.mean()
        cells[nuisance] = accuracies.assign(**{"number of rows" if "rows" in models else "rows": frame.size()})
        mean, worst = accuracies.mean(), accuracies.min()
        tables[nuisance] = pandas.DataFrame(
            {
                "accuracy": {name: sum(found) / len(found) for name, found in hits.items()},
                "mean over cells": mean,
                "worst cell": worst,
                "leakage": {name: 100 * found[nuisance].balanced_accuracy for name, found in leaks.items()},
                "output leakage": {name: 100 * found[nuisance].balanced_accuracy for name, found in told.items()},
                "chance": {name: 100 * found[nuisance].baseline for name, found in leaks.items()},
            }
        )
    if several is None:
        return Comparison(tables["nuisance"], cells["nuisance"])
    return Comparison(pandas.concat(tables), pandas.concat(cells))


def _sortable(labels: list[Hashable]) -> list[Hashable]:
    """Return labels that a table can sort: their text where they themselves have no order, such as members of an ``Enum``."""
    try:
        sorted(set(labels))  # type: ignore[type-var]
    except TypeError:
        return [str(label) for label in labels]
    return labels


class _Scores:
    """Reads the scores of a model, and whether those of a single output are its last layer's own, so no probabilities."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_of_layer = False

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        last: list[Any] = []
        layer = find_classifier(model)
        hook = None if layer is None else model.get_submodule(layer).register_forward_hook(lambda *call: last.append(call[2]))
        try:
            found = scores_in(call_with(model, batch))
        finally:
            if hook is not None:
                hook.remove()
        if not isinstance(found, Tensor):
            raise TypeError(
                f"`models`: {self._name!r} must return scores, a tuple that begins with them, or an entry or attribute "
                f"`logits`, got {type(found).__name__}. Wrap it in a module that returns its scores"
            )
        self._is_of_layer |= any(isinstance(own, Tensor) and are_close(found.flatten(), own.flatten()) for own in last)
        return found[:, None] if found.ndim == 1 else found

    def limit(self, scores: Tensor) -> float:
        """The number above which a single output says class 1."""
        is_probability = not self._is_of_layer and bool(((scores >= 0) & (scores <= 1)).all())
        return 0.5 if is_probability else 0.0
