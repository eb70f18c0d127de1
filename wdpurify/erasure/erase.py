"""Erasing after training: read the features, fit the eraser, fold it into the classifier, say what a probe still reads."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wdpurify._sampler import GroupSampler, Sampler
from wdpurify._torch import derive_seed, gathered, moved, of_every_rank, private_randomness, rank_and_world
from wdpurify.features import AuxiliaryForward, Pool, pool_features, usable_rows

from .affine import AffineLayer, evaluating
from .eraser import fit_eraser
from .head import check_labels, refit
from .probe import decoded

#: Share of the auxiliary rows that the eraser of the report is not fitted on.
HELD_OUT = 0.3
#: Rows count as one where their features agree to so many spreads.
SAME = 1e-4
#: Entries of a batch of mappings that may hold its labels.
LABELS = ("labels", "label", "target", "targets")

#: Makes inputs and labels of what a loader gives.
Unpack = Callable[[Any], tuple[Any, Tensor]]


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
        told = f"a linear probe reads the label off {self.before:.1%} of the rows before and {self.after:.1%} after erasing"
        return f"{told} (chance {self.chance:.1%}; {self.directions} directions removed, {self.rows} auxiliary rows)"


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


def erase(
    forward: AuxiliaryForward,
    rows: Rows,
    head: nn.Module,
    batches: Iterable[Any] | None,
    *,
    feature_dim: int,
    pool: Pool,
    max_rows: int,
    unpack: Unpack | None,
    world: int,
    seed: int,
) -> ErasureReport:
    """Fold the eraser of some rows into a classifier.

    Args:
        forward: the extractor without side effects.
        rows: what :func:`collect` gave.
        head: the classifier.
        batches: task rows to fit the classifier on; None keeps its weights.
        feature_dim, pool: of the features.
        max_rows: task rows read at most.
        unpack: see :data:`Unpack`; None takes pairs, and mappings with an entry of :data:`LABELS`.
        world: how many ranks share their rows.
        seed: of the split that the report is made of.
    """
    layer = AffineLayer(head, forward.model)
    if layer.dim != feature_dim:
        raise ValueError(f"`head` must read the {feature_dim} features that are purified, it reads {layer.dim}")
    eraser = fit_eraser(*rows, through_origin=not layer.has_bias)
    weight, bias, refitted = layer.weight, layer.bias, 0
    if batches is not None:
        features, labels = _task_rows(forward, batches, layer, feature_dim, pool, max_rows, unpack, world)
        weight, bias = refit(eraser(features), check_labels(labels, len(weight)), weight, bias)
        refitted = len(labels)
    removed, read, mean = (each.double() for each in (eraser.removed, eraser.read, eraser.mean))
    seen = weight @ removed
    folded = [weight - seen @ read.T, None if bias is None else bias + seen @ (read.T @ mean)]
    if world > 1:  # whatever the ranks' arithmetic
        folded = of_every_rank(folded, device=forward.place()[0])[0]
    layer.write(*folded)
    before, after = _leakage(rows, seed)
    values = len(rows.groups.unique())
    return ErasureReport(before, after, 1.0 / values, eraser.rank, len(rows.groups), refitted)


@torch.no_grad()
def collect(forward: AuxiliaryForward, sampler: Sampler, *, feature_dim: int, pool: Pool, max_rows: int, world: int) -> Rows:
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
    try:
        with _reading(forward):
            while world * sum(len(part) for part in parts) < wanted:
                batch = forward.draw(sampler, step=-2 - len(parts))
                features = _features(forward, batch.images, feature_dim, pool)
                groups = torch.where(
                    moved(batch.population | (batch.groups >= 0), features.device), moved(batch.groups, features.device), -2
                )
                parts.append(torch.cat([features, groups[:, None].to(features)], dim=1))
    finally:
        sampler.load_state_dict(position)
    drawn = torch.cat(parts)
    drawn = (gathered(drawn).transpose(0, 1).flatten(0, 1) if world > 1 else drawn)[:wanted].double().cpu()
    usable = usable_rows(drawn) & (drawn[:, -1] > -2)
    return _different(drawn[usable, :-1], drawn[usable, -1].long())


@torch.no_grad()
def _task_rows(
    forward: AuxiliaryForward,
    batches: Iterable[Any],
    layer: AffineLayer,
    feature_dim: int,
    pool: Pool,
    max_rows: int,
    unpack: Unpack | None,
    world: int,
) -> tuple[Tensor, Tensor]:
    parts: list[tuple[Tensor, Tensor]] = []
    with _reading(forward):
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
    if world > 1:
        parts = [part for rank in of_every_rank(parts, device=forward.place()[0]) for part in rank]
    if not parts:
        raise ValueError("`batches` must give at least one batch to fit the classifier on, got none")
    features, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    usable = usable_rows(features)
    return features[usable], labels[usable]


@contextmanager
def _reading(forward: AuxiliaryForward) -> Iterator[None]:
    """Forwards in evaluation mode that leave no trace in the model, nor in the global random state."""
    randomness = private_randomness(torch.device("cpu"), derive_seed(0, "erasing"))
    with torch.inference_mode(False), randomness, forward.lent(with_grad=False), evaluating(forward.model):
        yield


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


def _leakage(rows: Rows, seed: int) -> tuple[float, float]:
    generator = torch.Generator("cpu").manual_seed(derive_seed(seed, "held-out rows"))
    order = torch.randperm(len(rows.groups), generator=generator)
    cut = round(HELD_OUT * len(order))
    held_out, fitted = rows.part(order[:cut]), rows.part(order[cut:])
    if len(fitted.groups.unique()) < 2 or len(held_out.groups.unique()) < len(rows.groups.unique()):
        return float("nan"), float("nan")
    eraser = fit_eraser(*fitted)
    before = decoded(*held_out)
    return before, decoded(eraser(held_out.features), held_out.groups, held_out.weights)


def world_of(sampler: Sampler) -> int:
    """How many ranks share this sampler's rows."""
    return rank_and_world()[1] if getattr(sampler, "across_ranks", True) else 1
