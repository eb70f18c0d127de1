"""Coherence: estimates how much of a gradient at the features remains after the sum over rows in the layers below.

Two gradients of equal norm at the features can differ several times over at the parameters. The gradients of rows with similar
features cancel if they have opposite directions, as early in training; a pull has one direction for all rows of a group. The
estimate is the weight gradient of a linear layer from these features to themselves, ``sum_i g_i z_i^T`` over rows i. It needs
no further backward pass.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import full_precision, to_device

#: Width of the random projection of wider features and gradients; it changes norms by about 13 %.
WIDTH = 64
#: Decay of the running means per iteration, in a long run.
DECAY = 0.95
#: Coherence ratios below this are treated as 1: the estimate at the features is only accurate to about this factor at the
#: parameters.
TOLERANCE = 1.5


def count_of_sums(feature_dim: int) -> int:
    """Return the length of the result of :func:`sums_over_rows`."""
    width = min(feature_dim, WIDTH)
    return width * width + 2 * width + 3


@lru_cache(maxsize=16)
def projections(dim: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Draw random sign projections for features and gradients, equal in every process; on average they preserve norms.

    Call this before the backward pass, which may be compiled.

    Returns:
        Two tensors of shape ``(dim, WIDTH)``; None if ``dim`` is at most ``WIDTH``.
    """
    if dim <= WIDTH:
        return None
    generator = torch.Generator("cpu").manual_seed(dim)
    with torch.inference_mode(False):
        signs = torch.randint(2, (2, dim, WIDTH), generator=generator, device="cpu", dtype=torch.float32)
        of_features, of_gradients = to_device((2.0 * signs - 1.0) / math.sqrt(WIDTH), device)
    return of_features, of_gradients


def project(rows: Tensor, projection: Tensor | None) -> Tensor:
    """Project rows to few dimensions, in single precision.

    Args:
        rows: shape ``(rows, dim)``.
        projection: shape ``(dim, WIDTH)``; None projects nothing.

    Returns:
        Detached, shape ``(rows, min(dim, WIDTH))``.
    """
    wide = rows.detach().float()
    if projection is None:
        return wide
    with full_precision(wide.device.type):
        return wide @ projection


def sums_over_rows(features: Tensor, gradient: Tensor, projection: Tensor | None, in_play: Tensor | None = None) -> Tensor:
    """Compute the sums for :func:`coherence`; the sums of passes and ranks add up to the sums of all their rows.

    Args:
        features: result of :func:`project` for the features, shape ``(rows, width)``.
        gradient: gradient at the features, shape ``(rows, dim)``.
        projection: projection of the gradient.
        in_play: mask of valid rows, shape ``(rows,)``; None uses all.

    Returns:
        Shape ``(count_of_sums(dim),)``.
    """
    if in_play is not None:
        features = features * in_play[:, None]
        gradient = gradient * in_play[:, None]
    count = features.new_full((), len(features)) if in_play is None else in_play.sum().to(features)
    directions = project(gradient, projection)
    square = gradient.detach().float().square().sum()
    scalars = torch.stack([features.square().sum(), count, square])
    with full_precision(features.device.type):
        product = directions.T @ features
    return torch.cat([product.flatten(), directions.sum(0), features.sum(0), scalars])


def coherence(sums: Tensor) -> Tensor:
    """Compute the norm of ``sum_i g_i z_i^T`` over the norm of g, for features z that are centred and in units of their spread.

    The result does not depend on a shift of all features, on the scale of features or gradient, or on the order of the rows.

    Args:
        sums: results of :func:`sums_over_rows`, added up, shape ``(..., count)``.

    Returns:
        Shape ``(...)``: the square root of the number of rows if all gradients have one direction and are proportional to a
        feature; about 1 for random directions; 0 if the gradients cancel; not finite without a gradient or a spread.
    """
    product, direction, total, (square, count, gradient) = _parts(sums)
    mean = total / count[..., None]
    centred = product - direction[..., :, None] * mean[..., None, :]
    result: Tensor = centred.flatten(-2).norm(dim=-1) / (_variance(square, count, mean) * gradient).sqrt()
    return result


def variance(sums: Tensor) -> Tensor:
    """Compute the mean squared distance of rows from their mean; arguments and shape as for :func:`coherence`."""
    _, _, total, (square, count, _) = _parts(sums)
    return _variance(square, count, total / count[..., None])


def _variance(square: Tensor, count: Tensor, mean: Tensor) -> Tensor:
    return (square / count - mean.square().sum(-1)).clamp(min=0.0)


class Coherence:
    """Running means of the coherence of the task gradient and of the pull; a short run averages all its iterations.

    Attributes:
        means: of the task gradient and of the pull, shape ``(2,)``; 0 before the first value.
        ratio: coherence of the pull over the task gradient's, scalar; not finite until both have a value.
        excess: ratio over the tolerance, at least 1, scalar; continuous at 1, so the pull does not jump at the tolerance.
    """

    def __init__(self) -> None:
        self._set(*torch.zeros((2, 2), dtype=torch.float32, device="cpu"))

    def record(self, task: Tensor, features: Tensor, gradient: Tensor, in_play: Tensor) -> None:
        """Record a pull and the task gradients before it; a coherence that is not finite is ignored.

        Args:
            task: sums over rows of each iteration's task gradient, shape ``(iterations, count)``.
            features: detached, shape ``(rows, dim)``.
            gradient: gradient of the pull at the features.
            in_play: mask of valid rows, shape ``(rows,)``.
        """
        of_features, of_gradients = projections(features.shape[1], features.device) or (None, None)
        pull = sums_over_rows(project(features, of_features), gradient, of_gradients, in_play)
        *earlier, last, of_pull = coherence(torch.cat([to_device(task, pull.device), pull[None]])).float().unbind()
        pairs = [torch.stack([each, torch.full_like(each, torch.nan)]) for each in earlier]
        for values in (*pairs, torch.stack([last, of_pull])):
            means, counts = to_device(self.means, values.device), to_device(self._counts, values.device)
            usable = values < torch.inf  # none is negative
            share = (1.0 / (counts + 1.0)).clamp(min=1.0 - DECAY)
            self._set(torch.lerp(means, torch.where(usable, values, means), share), counts + usable)

    def state_dict(self) -> dict[str, Any]:
        figures = torch.cat([self.means, self._counts]).detach().cpu()
        names = ("task", "pull", "task_count", "pull_count")
        return {name: value.clone() for name, value in zip(names, figures, strict=True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        names = ("task", "pull", "task_count", "pull_count")
        self._set(*torch.stack([state[name] for name in names]).split(2))

    def _set(self, means: Tensor, counts: Tensor) -> None:
        self.means, self._counts = means, counts
        task, pull = means.unbind()
        self.ratio = pull / task
        self.excess = (self.ratio / TOLERANCE).nan_to_num(nan=1.0, posinf=1.0).clamp(min=1.0)


def _parts(sums: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    width = math.isqrt(sums.shape[-1] - 2) - 1  # the length is (width + 1)^2 + 2
    product, direction, total, scalars = sums.split([width * width, width, width, 3], dim=-1)
    return product.unflatten(-1, (width, width)), direction, total, scalars.unbind(-1)
