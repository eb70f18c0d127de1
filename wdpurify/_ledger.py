"""GradientLedger: the task gradient of each iteration at the features, summed over its backward passes and over the ranks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ._devices import moved


class GradientLedger:
    """Adds up what backward passes report, as gradient accumulation adds up gradients.

    k micro-batches whose losses are divided by k make one large batch. At its features the task gradient has the norm
    ``sqrt(sum of squared norms)``, and the purify term, present in each micro-batch, weighs the sum of the factors. Their ratio
    is the norm in units of the unscaled loss: loss scale and divisor cancel.
    """

    def __init__(self) -> None:
        self._norm: Tensor | None = None
        self._weight: Tensor | None = None
        self._passes = 0
        self.passes_before = 1
        self._closed: list[tuple[Tensor, Tensor]] = []

    def add(self, norm: Tensor, weight: Tensor) -> Tensor:
        """Take note of one backward pass.

        Args:
            norm: norm of the task gradient at the features as it came, scalar.
            weight: by which factor the loss was scaled, scalar.

        Returns:
            Norm of this iteration's task gradient so far, in units of the unscaled loss.
        """
        norm, weight = norm.detach().float(), moved(weight.detach(), norm.device).float().abs()
        known = self._norm is not None and self._weight is not None
        self._norm = torch.hypot(moved(self._norm, norm.device), norm) if known else norm  # type: ignore[arg-type]
        self._weight = moved(self._weight, norm.device) + weight if known else weight  # type: ignore[arg-type]
        self._passes += 1
        return self._norm / self._weight

    def restart(self) -> None:
        """Forget the passes of this iteration: their gradients were cleared before the optimiser saw them."""
        self._norm = self._weight = None
        self._passes = 0

    def close(self) -> None:
        """End the iteration; one without a backward pass is kept as NaN, so that all ranks keep equally many."""
        nan = torch.full((), torch.nan, device="cpu")
        self._closed.append((nan, nan) if self._norm is None or self._weight is None else (self._norm, self._weight))
        self.passes_before = max(1, self._passes)
        self.restart()

    def take(self, count: int) -> Tensor:
        """The last ``count`` iterations as a tensor ``(count, 2)`` of norms and weights, NaN where there were fewer; once."""
        closed, self._closed = self._closed[-count:], []
        if not closed:
            return torch.full((count, 2), torch.nan, device="cpu")
        device = max((norm.device for norm, _ in closed), key=lambda device: device.type != "cpu")
        rows = torch.stack([torch.stack([moved(norm, device), moved(weight, device)]) for norm, weight in closed])
        return torch.cat([torch.full((count - len(rows), 2), torch.nan, device=device), rows])

    def state_dict(self) -> dict[str, Any]:
        """Iterations not taken yet and the open one, as tensors."""
        open_one = [] if self._norm is None or self._weight is None else [(self._norm, self._weight)]
        pairs = self._closed + open_one
        rows = [torch.stack([norm.cpu(), weight.cpu()]) for norm, weight in pairs]
        return {"rows": torch.stack(rows) if rows else torch.empty((0, 2)), "open": bool(open_one), "passes": self._passes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pairs = [(row[0].clone(), row[1].clone()) for row in state["rows"]]
        self.restart()
        if state["open"]:
            self._norm, self._weight = pairs.pop()
            self._passes = int(state["passes"])
        self._closed = pairs


def observations(rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Norm of the unscaled task gradient and weight, per iteration, of what all ranks noted.

    The ranks' losses are averaged, so their rows make one batch: squared norms add, and both numbers fall with their count.

    Args:
        rows: norms and weights of every rank, shape ``(ranks, iterations, 2)``.
    """
    norms = rows[..., 0].square().sum(0).sqrt() / rows.shape[0]
    weights = rows[..., 1].mean(0)
    yield from zip(norms / weights, weights, strict=True)
