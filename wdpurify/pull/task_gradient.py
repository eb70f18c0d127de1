"""TaskGradient: the task gradient of each iteration at the features, summed over its backward passes and over the ranks."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import moved
from wdpurify.functional import task_norms

from .coherence import coherence, count_of_sums, variance


class TaskGradient:
    """Adds up what backward passes report, as gradient accumulation adds up gradients.

    Passes whose losses are divided by k, or added up, make one concatenated batch. At its features the task gradient has the
    norm ``sqrt(sum of squared norms)``, and the purify term, present in each pass, weighs the sum of the factors. Their ratio
    is the norm in units of the unscaled loss: loss scale and divisor cancel. So do they in the coherence, which is known where
    every pass has said what it needs.

    Args:
        feature_dim: width of the features.

    Attributes:
        latest: norm of the last iteration's task gradient so far, in units of the unscaled loss, scalar; None at the start.
        factor: by which the last term was scaled, with its sign, scalar; None at the start.
        passes_before: how many passes the iteration before had, at least 1.
    """

    def __init__(self, feature_dim: int) -> None:
        self._nothing = torch.full((count_of_sums(feature_dim),), torch.nan, device="cpu")
        self.latest: Tensor | None = None
        self.factor: Tensor | None = None
        self.passes_before = 1
        self._norm: Tensor | None = None
        self._weight: Tensor | None = None
        self._sums: Tensor | None = None
        self._passes = 0
        self._closed: list[tuple[Tensor, Tensor, Tensor]] = []
        self._probe: Tensor | None = None
        self._expecting_probe: list[Callable[[], None]] = []

    @property
    def came(self) -> bool:
        """Whether a backward pass of this iteration has come to a term."""
        return self._weight is not None

    def add_weight(self, weight: Tensor, *, first: bool) -> None:
        """Record by which factor a term was scaled, a scalar; ``first`` for the first term of a pass."""
        self.factor = weight.detach()
        weight = self.factor.float().abs()
        self._weight = weight if self._weight is None else moved(self._weight, weight.device) + weight
        self._passes += first

    def add_norm(self, norm: Tensor, sums: Tensor | None = None) -> None:
        """Record the norm of a task gradient as it came, and its sums over rows; its term's weight is known by then."""
        assert self._weight is not None
        sums = moved(self._nothing if sums is None or len(sums) != len(self._nothing) else sums, self._weight.device)
        self._sums = sums if self._sums is None else moved(self._sums, sums.device) + sums
        norm = moved(norm.detach().float(), self._weight.device)
        self._norm = norm if self._norm is None else torch.hypot(moved(self._norm, norm.device), norm)
        self.latest = self._norm / self._weight

    def read_probe(self, probe: Tensor) -> None:
        """Take squared norms and sums from a leaf that compiled graphs report to."""
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
        self._sums = None
        self._passes = 0

    def close(self) -> None:
        """End the iteration; one without a backward pass is kept as NaN, so that all ranks keep equally many."""
        nan = torch.full((), torch.nan, device="cpu")
        self._closed.append(self._open() or (nan, nan, self._nothing))
        self.passes_before = max(1, self._passes)
        self.restart()

    def take(self, count: int) -> Tensor:
        """The last ``count`` iterations, once: norm, weight, sums; NaN where there were fewer. Shape ``(count, 2 + sums)``."""
        closed = self._closed[-count:]
        self._closed = []
        if not closed:
            return self._nothing.new_full((count, 2 + len(self._nothing)), torch.nan)
        device = max((norm.device for norm, _, _ in closed), key=lambda device: device.type != "cpu")
        rows = torch.stack([_row(each, device) for each in closed])
        return torch.cat([rows.new_full((count - len(rows), rows.shape[1]), torch.nan), rows])

    def state_dict(self) -> dict[str, Any]:
        """Iterations not taken yet and the open one, as tensors."""
        under_way = self._open()
        known = self._closed + ([] if under_way is None else [under_way])
        rows = [_row(each, torch.device("cpu")) for each in known]
        return {
            "rows": torch.stack(rows) if rows else torch.empty((0, 2 + len(self._nothing))),
            "open": under_way is not None,
            "passes": self._passes,
            "passes_before": self.passes_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        known = [(row[0].clone(), row[1].clone(), row[2:].clone()) for row in state["rows"]]
        passes = int(state["passes"])
        passes_before = int(state["passes_before"])
        self.restart()
        if state["open"]:
            self._norm, self._weight, self._sums = known.pop()
            self._passes = passes
        self._closed = known
        self.passes_before = passes_before

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_probe": None, "_expecting_probe": []}

    def _open(self) -> tuple[Tensor, Tensor, Tensor] | None:
        if self._norm is None or self._weight is None or self._sums is None:
            return None
        return self._norm, self._weight, self._sums

    def _probe_came(self, read: Tensor) -> None:
        read = read.detach()
        awaiting = self._expecting_probe
        self._expecting_probe = []
        for close in awaiting:
            close()
        if awaiting:
            self.add_norm(read[0].sqrt(), read[1:] if len(read) > 1 else None)


def _forget_gradient(probe: Tensor) -> None:
    probe.grad = None


def _row(iteration: tuple[Tensor, Tensor, Tensor], device: torch.device) -> Tensor:
    norm, weight, sums = (moved(each, device) for each in iteration)
    return torch.cat([norm[None], weight[None], sums])


def observations(rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Per iteration the norm of the unscaled task gradient, its weight and its coherence, and the variance of the features.

    Args:
        rows: what :meth:`TaskGradient.take` gave on each rank, shape ``(ranks, iterations, 2 + sums)``.
    """
    norms, weights = task_norms(rows[..., 0], rows[..., 1])
    sums = rows[..., 2:].sum(0)
    yield from zip(norms, weights, coherence(sums), variance(sums), strict=True)
