"""Coherence: how much of a gradient at the features is left once rows are added up, as the layers below add them up.

Two gradients of the same norm at the features can differ by a multiple at the parameters. Where rows with like features ask
for opposite things, as while a task is not learned yet, they cancel; a pull asks all rows of a group for the same. The gradient
of a linear layer that made these features from themselves, ``sum_i g_i z_i^T`` over rows i, tells how much is left, without
another backward pass.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import full_precision, moved

#: Features and gradients of more dimensions are projected at random to so many; norms are kept within some 13 %.
WIDTH = 64
#: Share of what is remembered that an iteration keeps, in a long run.
DECAY = 0.95
#: A pull that is more coherent than the task gradient by less than this counts as equally so: what is measured at the features
#: tells what is left at the parameters within a factor of about so much.
TOLERANCE = 1.5


def count_of_sums(feature_dim: int) -> int:
    """How many numbers :func:`sums_over_rows` gives."""
    width = min(feature_dim, WIDTH)
    return width * width + 2 * width + 3


@lru_cache(maxsize=16)
def projections(dim: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Signs at random, which keep norms on average: for features and for gradients, the same in every process.

    Made before the backward pass, which may be compiled.

    Returns:
        Each of shape ``(dim, WIDTH)``; None where there are no more dimensions than that.
    """
    if dim <= WIDTH:
        return None
    generator = torch.Generator("cpu").manual_seed(dim)
    with torch.inference_mode(False):
        signs = torch.randint(2, (2, dim, WIDTH), generator=generator, device="cpu", dtype=torch.float32)
        of_features, of_gradients = moved((2.0 * signs - 1.0) / math.sqrt(WIDTH), device)
    return of_features, of_gradients


def projected(rows: Tensor, projection: Tensor | None) -> Tensor:
    """Rows in few dimensions, in single precision.

    Args:
        rows: shape ``(rows, dim)``.
        projection: shape ``(dim, WIDTH)``; None leaves the rows as they are.

    Returns:
        Detached, shape ``(rows, min(dim, WIDTH))``.
    """
    wide = rows.detach().float()
    if projection is None:
        return wide
    with full_precision(wide.device.type):
        return wide @ projection


def sums_over_rows(features: Tensor, gradient: Tensor, projection: Tensor | None, in_play: Tensor | None = None) -> Tensor:
    """What :func:`coherence` needs of some rows; what several passes or ranks give adds up to what all their rows give.

    Args:
        features: what :func:`projected` made of the features, shape ``(rows, width)``.
        gradient: at the features, shape ``(rows, dim)``.
        projection: of the gradient.
        in_play: which rows count, shape ``(rows,)``; None counts all.

    Returns:
        Shape ``(count_of_sums(dim),)``.
    """
    if in_play is not None:
        features = features * in_play[:, None]
        gradient = gradient * in_play[:, None]
    count = features.new_full((), len(features)) if in_play is None else in_play.sum().to(features)
    directions = projected(gradient, projection)
    square = gradient.detach().float().square().sum()
    scalars = torch.stack([features.square().sum(), count, square])
    with full_precision(features.device.type):
        product = directions.T @ features
    return torch.cat([product.flatten(), directions.sum(0), features.sum(0), scalars])


def coherence(sums: Tensor) -> Tensor:
    """The norm of ``sum_i g_i z_i^T`` over that of g, for features z that are centred and in units of their spread.

    Adding the same to all features, multiplying them or the gradient, and the order of the rows change nothing.

    Args:
        sums: what :func:`sums_over_rows` gave, added up, shape ``(..., count)``.

    Returns:
        Shape ``(...)``: the root of the number of rows where all ask for the same in proportion to a feature; about 1 where
        they ask for this and that; 0 where they cancel; not finite where there is no gradient or no spread.
    """
    product, direction, total, (_, count, gradient) = _parts(sums)
    centred = product - direction[..., :, None] * (total / count[..., None])[..., None, :]
    found: Tensor = centred.flatten(-2).norm(dim=-1) / (variance(sums) * gradient).sqrt()
    return found


def variance(sums: Tensor) -> Tensor:
    """Mean squared distance of a row's features from their mean; arguments and shape as for :func:`coherence`."""
    _, _, total, (square, count, _) = _parts(sums)
    return (square / count - (total / count[..., None]).square().sum(-1)).clamp(min=0.0)


class Coherence:
    """The coherence of the task gradient and of the pull, averaged over a whole short run and a window of a long one.

    Attributes:
        task, pull: the averages, scalars; 0 before the first.
    """

    def __init__(self) -> None:
        zero = torch.zeros((), dtype=torch.float32, device="cpu")
        self.task, self.pull, self._task_count, self._pull_count = zero, zero, zero, zero

    @property
    def ratio(self) -> Tensor:
        """How much more coherent the pull is than the task gradient; not finite while that is not known."""
        # Only one of the two may be on a device yet; to come from there to the host would wait for it.
        device = self.task.device if self.pull.device.type == "cpu" else self.pull.device
        return moved(self.pull, device) / moved(self.task, device)

    @property
    def excess(self) -> Tensor:
        """By how much the ratio is beyond the tolerance, at least 1; it begins at 1, so that no pull jumps there."""
        return (self.ratio / TOLERANCE).nan_to_num(nan=1.0, posinf=1.0).clamp(min=1.0)

    def record_task(self, found: Tensor) -> None:
        """Record the coherence of an iteration's task gradient; one that is not finite says nothing."""
        self.task, self._task_count = _averaged(self.task, self._task_count, found)

    def record_pull(self, features: Tensor, gradient: Tensor, in_play: Tensor) -> None:
        """Record a pull.

        Args:
            features: detached, shape ``(rows, dim)``.
            gradient: of the pull at them.
            in_play: which rows count, shape ``(rows,)``.
        """
        of_features, of_gradients = projections(features.shape[1], features.device) or (None, None)
        found = coherence(sums_over_rows(projected(features, of_features), gradient, of_gradients, in_play))
        self.pull, self._pull_count = _averaged(self.pull, self._pull_count, found)

    def state_dict(self) -> dict[str, Any]:
        known = {"task": self.task, "pull": self.pull, "task_count": self._task_count, "pull_count": self._pull_count}
        return {name: value.detach().cpu().clone() for name, value in known.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task, self.pull = state["task"].clone(), state["pull"].clone()
        self._task_count, self._pull_count = state["task_count"].clone(), state["pull_count"].clone()


def _averaged(known: Tensor, count: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    known, count = moved(known, found.device), moved(count, found.device)
    usable = torch.isfinite(found)
    share = (1.0 / (count + 1.0)).clamp(min=1.0 - DECAY)
    mean = torch.lerp(known, torch.where(usable, found, known).to(known), share)
    return mean, torch.where(usable, count + 1.0, count)


def _parts(sums: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    width = math.isqrt(sums.shape[-1] - 2) - 1  # there are (width + 1)^2 + 2 of them
    product, direction, total, scalars = sums.split([width * width, width, width, 3], dim=-1)
    return product.unflatten(-1, (width, width)), direction, total, scalars.unbind(-1)
