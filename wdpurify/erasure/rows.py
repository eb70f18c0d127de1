"""Collects the rows for erasing: auxiliary features with their labels, task features with their classes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wdpurify._each_row import EachRow, each_row
from wdpurify._sampler import Sampler
from wdpurify._torch import derive_seed, gather_objects, gather_ranks, private_randomness, to_device
from wdpurify.features import AuxiliaryForward, Pool, call_with, pool_features, usable_rows

from .affine import AffineLayer, evaluating
from .outputs import says_the_same, scores_in

#: Largest difference of equal rows, in units of the features' spread.
SAME = 1e-4
#: Keys that may hold the labels of a batch that is a mapping.
LABELS = ("labels", "label", "target", "targets")

#: Splits a loader's batch into inputs and labels.
BatchUnpacker = Callable[[Any], tuple[Any, Tensor]]


class Rows(NamedTuple):
    """Auxiliary features with their labels, without repeated rows.

    Attributes:
        features: float64, shape ``(rows, dim)``.
        groups: number of the label value, int64, shape ``(rows,)``; ``(rows, labels)`` of several, -1 where one is missing.
        weights: how often the sampler draws a row, up to a factor, float64, shape ``(rows,)``.
    """

    features: Tensor
    groups: Tensor
    weights: Tensor

    def part(self, chosen: Tensor) -> "Rows":
        """Select rows."""
        return Rows(self.features[chosen], self.groups[chosen], self.weights[chosen])

    def with_labels(self, chosen: Tensor) -> "Rows":
        """Select labels, by a mask of them."""
        return self if self.groups.ndim == 1 else self._replace(groups=self.groups[:, chosen])

    def of_each_label(self) -> list["Rows"]:
        """The rows that have each label, with that label alone."""
        if self.groups.ndim == 1:
            return [self]
        columns = self.groups.unbind(1)
        return [Rows(self.features[has], column[has], self.weights[has]) for column in columns for has in [column >= 0]]


@torch.no_grad()
def auxiliary_rows(
    forward: AuxiliaryForward, sampler: Sampler, *, feature_dim: int, pool: Pool, max_rows: int, world: int
) -> Rows:
    """Extract the features of all ranks' sampler rows in evaluation mode, without a change to sampler and model.

    Args:
        forward: the extractor without side effects.
        sampler: supplies each row once, see :func:`each_row`; a sampler that only draws supplies its next rows.
        feature_dim, pool: width and token pooling of the features.
        max_rows: largest number of rows.
        world: number of ranks that share their rows.
    """
    whole = each_row(sampler, max_rows=max_rows)
    position = None if whole else sampler.state_dict()
    source = whole or EachRow(sampler)
    labels = source.labels
    wanted = max_rows if labels is None else min(max_rows, len(labels))
    parts: list[Tensor] = []
    numbers: list[Tensor] = []

    def read() -> None:
        while world * sum(len(part) for part in parts) < wanted:
            batch = forward.draw(source.sampler, step=-2 - len(parts))
            features = _features(forward, batch.images, feature_dim, pool, samples=len(batch.groups))
            groups = to_device(batch.groups, features.device).view(len(features), -1)
            counts = to_device(batch.population, features.device) | (groups >= 0).any(1)
            parts.append(features)
            numbers.append(torch.where(counts[:, None], groups, -2))
            if whole and world == 1 and not counts.any():  # a stream has come to its end
                break

    try:
        _in_evaluation(forward, read)
    finally:
        if position is not None:
            sampler.load_state_dict(position)
        else:
            getattr(source.sampler, "close", bool)()
    features, groups = (_of_all_ranks(torch.cat(each), world)[:wanted].cpu() for each in (parts, numbers))
    features = features.double()
    usable = usable_rows(features) & (groups > -2).all(1)
    features, groups = features[usable], groups[usable]
    weights = source.weights(groups[:, 0])
    if labels is not None:
        groups = labels[groups[:, 0]]
    return _different(features, groups[:, 0] if groups.ndim == 2 and groups.shape[1] == 1 else groups, weights)


def _of_all_ranks(rows: Tensor, world: int) -> Tensor:
    """The rows of all ranks, in the order in which one process draws them."""
    return gather_ranks(rows).transpose(0, 1).flatten(0, 1) if world > 1 else rows


@torch.no_grad()
def task_rows(
    forward: AuxiliaryForward,
    batches: Iterable[Any],
    layer: AffineLayer,
    feature_dim: int,
    pool: Pool,
    max_rows: int,
    unpack: BatchUnpacker | None,
    world: int,
) -> tuple[Tensor, Tensor]:
    parts: list[tuple[Tensor, Tensor]] = []

    def read() -> None:
        for batch in batches:
            inputs, given = (unpack or _unpacked)(batch)
            labels = _numbers(given)
            features = _features(forward, inputs, feature_dim, pool, whole=True)
            if len(labels) != len(features):
                raise ValueError(f"`batches` must hold one label per row, got {len(labels)} labels for {len(features)} rows")
            features = features.double().cpu()
            if not parts and forward.tap is not None:
                _check_is_last(forward, inputs, layer(features), usable_rows(features))
            parts.append((features, labels))
            if world * sum(len(part) for _, part in parts) >= max_rows:
                break

    _in_evaluation(forward, read)
    if world > 1:
        parts = [part for rank in gather_objects(parts, device=forward.place()[0]) for part in rank]
    if not parts:
        raise ValueError("`batches` must hold at least one batch to refit the classifier, got none")
    features, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    usable = usable_rows(features)
    if not usable.any():
        raise ValueError(f"`batches` must have rows with finite features, got none in {len(usable)} rows. Mend the inputs")
    return features[usable], labels[usable]


def _in_evaluation(forward: AuxiliaryForward, read: Callable[[], None]) -> None:
    """Call ``read`` in evaluation mode, without side effects on the model and on the global random state."""

    def read_in_evaluation(_: Any) -> None:
        with evaluating(forward.model):
            read()

    with private_randomness(torch.device("cpu"), derive_seed(0, "erasing")):
        forward.run_isolated(read_in_evaluation, with_grad=False)


def _features(
    forward: AuxiliaryForward, inputs: Any, feature_dim: int, pool: Pool, *, whole: bool = False, samples: int | None = None
) -> Tensor:
    inputs = forward.to_model(inputs)
    raw = forward(inputs, step=-2, with_grad=False)
    if whole and raw.ndim != 2:
        raise ValueError(
            f"the refit needs features of shape (batch, dim), got {tuple(raw.shape)}. "
            "Call `erase()` without batches to keep the classifier's weights"
        )
    options: dict[str, Any] = {"channels_first": forward.channels_first, "samples": samples}
    rows = pool_features(raw, feature_dim, pool=pool, mask=forward.attention_mask(inputs), **options)
    if samples is not None:
        forward.check_first_axis(inputs, raw, samples, pool=pool)
    return rows


def _numbers(labels: Any) -> Tensor:
    try:
        return torch.as_tensor(labels).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        is_text = any(isinstance(label, str) for label in labels) if isinstance(labels, list | tuple) else False
        raise ValueError(
            f"`batches` must give one class number per row, got {'text' if is_text else type(labels).__name__}. Number the "
            "classes in the order of the outputs: `unpack=lambda batch: (batch[0], [names.index(name) for name in batch[1]])`"
        ) from error


def _unpacked(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, Mapping):
        name = next((name for name in LABELS if name in batch), None)
        if name is not None:
            return {key: value for key, value in batch.items() if key != name}, batch[name]
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        return batch[0], batch[1]
    raise ValueError(
        f"`batches` must hold pairs of inputs and labels, or mappings with an entry {' or '.join(map(repr, LABELS[:2]))}, got "
        f"{type(batch).__name__}. Give a function that splits a batch: `unpack=lambda batch: (batch.x, batch.y)`"
    )


def _check_is_last(forward: AuxiliaryForward, inputs: Any, scores: Tensor, usable: Tensor) -> None:
    """Raise ValueError if the model's output differs from the layer's scores in the usable rows."""
    assert forward.tap is not None
    with torch.autocast(scores.device.type, enabled=False):
        output = scores_in(call_with(forward.tap.model, forward.to_model(inputs)))
    alike = isinstance(output, Tensor) and output.shape == scores.shape
    if not (alike and says_the_same(output.double().cpu()[usable], scores[usable])):
        raise ValueError(
            f"the classifier {forward.tap.layer!r} cannot be refitted, because the model's output is not this layer's output. "
            "Call `erase()` without batches to keep its weights, or set `layer` to the name of the last layer"
        )


def _different(features: Tensor, groups: Tensor, weights: Tensor) -> Rows:
    """Merge repeated rows, and add up their weights."""
    spread = features.std(0, unbiased=False).norm().clamp(min=1e-12)
    # A few random directions distinguish rows as well as all dimensions do, and sort faster.
    generator = torch.Generator("cpu").manual_seed(0)
    directions = torch.randn((features.shape[1], 4), generator=generator, dtype=features.dtype)
    places = (features @ directions / spread / SAME).round()
    pairs = torch.cat([places, groups.double().view(len(groups), -1)], dim=1)
    different, number = pairs.unique(dim=0, return_inverse=True)
    first = torch.full((len(different),), len(groups)).scatter_reduce(0, number, torch.arange(len(groups)), "amin")
    order = first.argsort()
    total = torch.zeros(len(different), dtype=torch.float64).index_add(0, number, weights)
    return Rows(features[first[order]], groups[first[order]], total[order])
