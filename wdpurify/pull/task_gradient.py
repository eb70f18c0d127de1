"""TaskGradient: the task gradient of each iteration at the features, summed over its backward passes and over the ranks."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import moved
from wdpurify.functional import task_norms


class TaskGradient:
    """Adds up what backward passes report, as gradient accumulation adds up gradients.

    Passes whose losses are divided by k, or added up, make one concatenated batch. At its features the task gradient has the
    norm ``sqrt(sum of squared norms)``, and the purify term, present in each pass, weighs the sum of the factors. Their ratio
    is the norm in units of the unscaled loss: loss scale and divisor cancel.

    Attributes:
        latest: norm of the last iteration's task gradient so far, in units of the unscaled loss, scalar; None at the start.
        passes_before: how many passes the iteration before had, at least 1.
    """

    def __init__(self) -> None:
        self.latest: Tensor | None = None
        self.passes_before = 1
        self._norm: Tensor | None = None
        self._weight: Tensor | None = None
        self._passes = 0
        self._closed: list[tuple[Tensor, Tensor]] = []
        self._probe: Tensor | None = None
        self._expecting_probe: list[Callable[[], None]] = []

    def add_weight(self, weight: Tensor, *, first: bool) -> None:
        """Record by which factor a term was scaled, a scalar; ``first`` for the first term of a pass."""
        weight = weight.detach().float().abs()
        self._weight = weight if self._weight is None else moved(self._weight, weight.device) + weight
        self._passes += first

    def add_norm(self, norm: Tensor) -> None:
        """Record the norm of a task gradient as it came, a scalar; its term's weight is known by then."""
        assert self._weight is not None
        norm = moved(norm.detach().float(), self._weight.device)
        self._norm = norm if self._norm is None else torch.hypot(moved(self._norm, norm.device), norm)
        self.latest = self._norm / self._weight

    def read_probe(self, probe: Tensor) -> None:
        """Take squared norms from a leaf that compiled graphs report to."""
        if self._probe is not probe:
            self._probe = probe
            probe.register_hook(self._probe_came)
            probe.register_post_accumulate_grad_hook(_forget_gradient)

    def expect_probe(self, close: Callable[[], None]) -> None:
        """A term came: the probe's next report is of a pass with the term, and ``close`` is called then."""
        self._expecting_probe.append(close)

    def restart(self) -> None:
        """Forget the passes of this iteration: their gradients were cleared before the optimiser saw them."""
        self._norm = None
        self._weight = None
        self._passes = 0

    def close(self) -> None:
        """End the iteration; one without a backward pass is kept as NaN, so that all ranks keep equally many."""
        nan = torch.full((), torch.nan, device="cpu")
        self._closed.append((nan, nan) if self._norm is None or self._weight is None else (self._norm, self._weight))
        self.passes_before = max(1, self._passes)
        self.restart()

    def take(self, count: int) -> Tensor:
        """The last ``count`` iterations as a tensor ``(count, 2)`` of norms and weights, NaN where there were fewer; once."""
        closed = self._closed[-count:]
        self._closed = []
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
        return {
            "rows": torch.stack(rows) if rows else torch.empty((0, 2)),
            "open": bool(open_one),
            "passes": self._passes,
            "passes_before": self.passes_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        pairs = [(row[0].clone(), row[1].clone()) for row in state["rows"]]
        passes = int(state["passes"])
        passes_before = int(state["passes_before"])
        self.restart()
        if state["open"]:
            self._norm, self._weight = pairs.pop()
            self._passes = passes
        self._closed = pairs
        self.passes_before = passes_before

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_probe": None, "_expecting_probe": []}

    def _probe_came(self, square: Tensor) -> None:
        awaiting = self._expecting_probe
        self._expecting_probe = []
        for close in awaiting:
            close()
        if awaiting:
            self.add_norm(square.detach().sqrt())


def _forget_gradient(probe: Tensor) -> None:
    probe.grad = None


def observations(rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Norm of the unscaled task gradient and weight, per iteration, of what all ranks recorded: shape ``(ranks, n, 2)``."""
    norms, weights = task_norms(rows[..., 0], rows[..., 1])
    yield from zip(norms, weights, strict=True)
