"""The rows that erasing needs: auxiliary features with their labels, task features with their classes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wdpurify._sampler import GroupSampler, Sampler
from wdpurify._torch import derive_seed, gather_ranks, moved, of_every_rank, private_randomness
from wdpurify.features import AuxiliaryForward, Pool, pool_features, usable_rows

from .affine import AffineLayer, evaluating

#: Rows count as one where their features agree to so many spreads.
SAME = 1e-4
#: Entries of a batch of mappings that may hold its labels.
LABELS = ("labels", "label", "target", "targets")

#: Makes inputs and labels of what a loader gives.
BatchUnpacker = Callable[[Any], tuple[Any, Tensor]]


class Rows(NamedTuple):
    """Auxiliary features with their labels, each different row once.

    Attributes:
        features: float64, shape ``(rows, dim)``.
        groups: number of the label value, int64, shape ``(rows,)``.
        weights: how often the sampler drew a row, float64, shape ``(rows,)``.
    """

    features: Tensor
    groups: Tensor
    weights: Tensor

    def part(self, chosen: Tensor) -> "Rows":
        """Some of the rows."""
        return Rows(self.features[chosen], self.groups[chosen], self.weights[chosen])


@torch.no_grad()
def auxiliary_rows(
    forward: AuxiliaryForward, sampler: Sampler, *, feature_dim: int, pool: Pool, max_rows: int, world: int
) -> Rows:
    """The features of the sampler's rows in evaluation mode, of all ranks; sampler and model are as before afterwards.

    Args:
        forward: the extractor without side effects.
        sampler: of a :class:`GroupSampler` one epoch is read from its beginning, of another what it draws next.
        feature_dim, pool: of the features.
        max_rows: rows read at most.
        world: how many ranks share their rows.
    """
    position = sampler.state_dict()
    wanted = max_rows
    if isinstance(sampler, GroupSampler):
        sampler.load_state_dict({**position, "drawn": 0})
        wanted = min(max_rows, sampler.rows)
    parts: list[Tensor] = []

    def read() -> None:
        while world * sum(len(part) for part in parts) < wanted:
            batch = forward.draw(sampler, step=-2 - len(parts))
            features = _features(forward, batch.images, feature_dim, pool)
            groups = torch.where(
                moved(batch.population | (batch.groups >= 0), features.device), moved(batch.groups, features.device), -2
            )
            parts.append(torch.cat([features, groups[:, None].to(features)], dim=1))

    try:
        _in_evaluation(forward, read)
    finally:
        sampler.load_state_dict(position)
    drawn = torch.cat(parts)
    drawn = (gather_ranks(drawn).transpose(0, 1).flatten(0, 1) if world > 1 else drawn)[:wanted].double().cpu()
    usable = usable_rows(drawn) & (drawn[:, -1] > -2)
    return _different(drawn[usable, :-1], drawn[usable, -1].long())


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
            inputs, labels = (unpack or _unpacked)(batch)
            features = _features(forward, inputs, feature_dim, pool, whole=True)
            if len(labels) != len(features):
                raise ValueError(f"`batches` must give one label per row, got {len(labels)} labels for {len(features)} rows")
            if not parts and forward.tap is not None:
                _check_is_last(forward, inputs, layer(features.double().cpu()))
            parts.append((features.double().cpu(), labels.detach().cpu()))
            if world * sum(len(part) for _, part in parts) >= max_rows:
                break

    _in_evaluation(forward, read)
    if world > 1:
        parts = [part for rank in of_every_rank(parts, device=forward.place()[0]) for part in rank]
    if not parts:
        raise ValueError("`batches` must give at least one batch to fit the classifier on, got none")
    features, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    usable = usable_rows(features)
    return features[usable], labels[usable]


def _in_evaluation(forward: AuxiliaryForward, read: Callable[[], None]) -> None:
    """Call ``read``, whose forwards are in evaluation mode and leave no trace in the model, nor in the global random state."""

    def read_in_evaluation(_: Any) -> None:
        with evaluating(forward.model):
            read()

    with torch.inference_mode(False), private_randomness(torch.device("cpu"), derive_seed(0, "erasing")):
        forward.isolated(read_in_evaluation, with_grad=False)


def _features(forward: AuxiliaryForward, inputs: Any, feature_dim: int, pool: Pool, *, whole: bool = False) -> Tensor:
    inputs = forward.placed(inputs)
    raw = forward(inputs, step=-2, with_grad=False)
    if whole and raw.ndim != 2:
        raise ValueError(
            f"the classifier is fitted anew on features of shape (batch, dim), this one reads {tuple(raw.shape)}. "
            "Call `erase()` without batches to keep its weights"
        )
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return pool_features(raw, feature_dim, pool=pool, mask=mask)


def _unpacked(batch: Any) -> tuple[Any, Tensor]:
    if isinstance(batch, Mapping):
        name = next((name for name in LABELS if name in batch), None)
        if name is not None:
            return {key: value for key, value in batch.items() if key != name}, torch.as_tensor(batch[name])
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        return batch[0], torch.as_tensor(batch[1])
    raise ValueError(
        f"`batches` must give pairs of inputs and labels, or mappings with an entry {' or '.join(map(repr, LABELS[:2]))}, got "
        f"{type(batch).__name__}. Say how to take one apart: `unpack=lambda batch: (batch.x, batch.y)`"
    )


def _check_is_last(forward: AuxiliaryForward, inputs: Any, scores: Tensor) -> None:
    """Refuse to fit a layer whose scores are not what the model predicts by."""
    assert forward.tap is not None
    inputs = forward.placed(inputs)
    with torch.autocast(scores.device.type, enabled=False):
        output = forward.tap.model(**inputs) if isinstance(inputs, Mapping) else forward.tap.model(inputs)
    output = getattr(output, "logits", output)
    output = output[0] if isinstance(output, tuple | list) else output
    if not (isinstance(output, Tensor) and output.shape == scores.shape and _alike(output.double().cpu(), scores)):
        raise ValueError(
            f"the classifier {forward.tap.layer!r} cannot be fitted anew: the model's output is not what this layer gives. "
            "Call `erase()` without batches to keep its weights, or name the last layer with `layer=...`"
        )


def _alike(output: Tensor, scores: Tensor) -> bool:
    """Whether an output is these scores, their log-probabilities, or their probabilities."""
    many = scores.shape[-1] > 1
    forms = [scores, scores.log_softmax(-1), scores.softmax(-1)] if many else [scores, scores.sigmoid()]
    return any(bool((output - form).norm() <= 0.02 * form.norm() + 1e-6) for form in forms)


def _different(features: Tensor, groups: Tensor) -> Rows:
    """Each row once, with how often it came: a sampler that draws evenly over cells draws rare rows often."""
    spread = features.std(0, unbiased=False).norm().clamp(min=1e-12)
    # A few directions tell rows apart as well as all dimensions do, and are quick to sort by.
    generator = torch.Generator("cpu").manual_seed(0)
    directions = torch.randn((features.shape[1], 4), generator=generator, dtype=features.dtype)
    places = (features @ directions / spread / SAME).round()
    pairs = torch.cat([places, groups.double()[:, None]], dim=1)
    _, number, counts = pairs.unique(dim=0, return_inverse=True, return_counts=True)
    first = torch.full((len(counts),), len(groups)).scatter_reduce(0, number, torch.arange(len(groups)), "amin")
    order = first.argsort()
    return Rows(features[first[order]], groups[first[order]], counts[order].double())
