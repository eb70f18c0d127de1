"""TaskGradient: norm and sums of the task gradient at the features, over all backward passes of an iteration."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import to_device
from wdpurify.functional import task_norms

from .coherence import count_of_sums


class TaskGradient:
    """Accumulates the task gradient over the backward passes of one iteration, as ``.grad`` accumulates gradients.

    Together the passes are one concatenated batch. At its features the task gradient has the norm ``sqrt(sum of squared
    norms)``. The weight of the purify term is the sum of its factors in the losses. The norm divided by the weight is in
    units of the unscaled loss, because loss scale and divisor cancel; they cancel in the coherence too. The coherence is known
    only if every pass reports its sums.

    Attributes:
        factor: factor of the last term in its loss, with its sign, scalar; None before a backward pass.
        passes: number of backward passes with a term.
        tokens: largest number of tokens of one row with a non-zero gradient, scalar; None for features without tokens.
    """

    def __init__(self) -> None:
        self.factor: Tensor | None = None
        self.passes = 0
        self.tokens: Tensor | None = None
        self._weight: Tensor | None = None
        self._norm: Tensor | None = None
        self._sums: Tensor | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether a gradient is recorded."""
        return self._norm is not None and self._weight is not None

    @property
    def norm(self) -> Tensor | None:
        """Norm in units of the unscaled loss, scalar; None before a gradient is recorded."""
        return None if self._norm is None or self._weight is None else self._norm / self._weight

    def add_weight(self, factor: Tensor, *, first: bool) -> None:
        """Record the factor of a term in its loss, a scalar; ``first`` marks the first term of a backward pass."""
        self.factor = factor.detach()
        weight = self.factor.float().abs()
        self._weight = weight if self._weight is None else to_device(self._weight, weight.device) + weight
        self.passes += first

    def add_norm(self, norm: Tensor, sums: Tensor | None, nothing: Tensor) -> None:
        """Record a task gradient, after the weight of its term.

        Args:
            norm: its norm, scalar.
            sums: its sums over rows, see :func:`sums_over_rows`; None if unknown.
            nothing: NaN of the shape of ``sums``.
        """
        assert self._weight is not None
        sums = to_device(nothing if sums is None or len(sums) != len(nothing) else sums, self._weight.device)
        self._sums = sums if self._sums is None else to_device(self._sums, sums.device) + sums
        norm = to_device(norm.detach().float(), self._weight.device)
        self._norm = norm if self._norm is None else torch.hypot(to_device(self._norm, norm.device), norm)

    def row(self) -> Tensor | None:
        """Return norm, weight and sums, shape ``(2 + sums,)``; None before a gradient is recorded."""
        if self._norm is None or self._weight is None or self._sums is None:
            return None
        device = self._sums.device
        return torch.cat([to_device(self._norm, device)[None], to_device(self._weight, device)[None], self._sums])

    @classmethod
    def from_row(cls, row: Tensor, passes: int) -> "TaskGradient":
        """Restore a task gradient from its :meth:`row`, NaN without a gradient, and its number of passes."""
        made = cls()
        if not row.isnan().all():
            made._norm, made._weight, made._sums = row[0].clone(), row[1].clone(), row[2:].clone()
        made.passes = passes
        return made


class TaskGradients:
    """Task gradients of the current iteration, and of the iterations since the last auxiliary step.

    ``backward()`` accumulates gradients, and ``torch.autograd.grad`` returns them. In an iteration with both, only the
    accumulated ones train the model. So the two kinds are recorded apart, and without accumulated ones the returned ones count.

    Args:
        feature_dim: width of the features.
        every: iterations from one auxiliary step to the next, at least 1.

    Attributes:
        nothing: NaN in place of unknown sums.
        accumulated: gradients from ``backward()`` in the current iteration.
        asked_for: gradients from ``torch.autograd.grad`` in the current iteration.
        batched: whether a vectorised backward pass (``is_grads_batched=True``) ever occurred; it is not recorded.
    """

    def __init__(self, feature_dim: int, *, every: int) -> None:
        self.batched = False
        self._every = every
        self.nothing = torch.full((count_of_sums(feature_dim),), torch.nan, device="cpu")
        self.accumulated = TaskGradient()
        self.asked_for = TaskGradient()
        self._ended: list[TaskGradient] = []
        self._last = TaskGradient()

    @property
    def current(self) -> TaskGradient:
        """The gradient of the current iteration that counts."""
        return self.accumulated if self.accumulated.passes else self.asked_for

    @property
    def passes_before(self) -> int:
        """Number of passes in the last ended iteration, at least 1."""
        return max(1, self._last.passes)

    @property
    def latest(self) -> TaskGradient:
        """The gradient of the last ended iteration, or of the current one once it has as many passes."""
        is_whole = self.current.is_recorded and self.current.passes >= self.passes_before
        return self.current if is_whole or not self._last.is_recorded else self._last

    def begin(self) -> None:
        """Begin an iteration, or restart it after its gradients were set to None before an optimiser step."""
        self.accumulated = TaskGradient()
        self.asked_for = TaskGradient()

    def end(self) -> None:
        """End the iteration; one without a backward pass is recorded too, so that all ranks record the same number."""
        self._last = self.current
        self._ended.append(self._last)
        self.begin()

    def pop_ended(self) -> Tensor:
        """Return and remove the iterations since the last auxiliary step: norm, weight, sums; NaN for missing ones.

        Returns:
            Shape ``(every, 2 + sums)``.
        """
        rows = self._rows(self._ended)
        self._ended = []
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the recorded iterations and the current one in a tensor of fixed shape, and the numbers of passes."""
        rows = torch.cat([self._rows(self._ended), self._rows([self.current])[-1:]])
        return {
            "rows": rows.cpu(),
            "ended": len(self._ended),
            "passes": self.current.passes,
            "asked_for": self.current is self.asked_for,
            "passes_before": self.passes_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        *ended, current = state["rows"]
        self.begin()
        self._ended = [TaskGradient.from_row(row, state["passes_before"]) for row in ended[self._every - state["ended"] :]]
        self._last = self._ended[-1] if self._ended else TaskGradient()
        self._last.passes = state["passes_before"]
        if state["passes"]:
            kind = "asked_for" if state["asked_for"] else "accumulated"
            setattr(self, kind, TaskGradient.from_row(current, state["passes"]))

    def _rows(self, gradients: list[TaskGradient]) -> Tensor:
        """Return the last ``every`` gradients as rows; rows of NaN come first if there are fewer."""
        rows = [each.row() for each in gradients[-self._every :]]
        device = next((row.device for row in rows if row is not None and row.device.type != "cpu"), torch.device("cpu"))
        empty = torch.full((2 + len(self.nothing),), torch.nan, device=device)
        filled = [empty if row is None else to_device(row.detach(), device) for row in rows]
        return torch.stack([empty] * (self._every - len(filled)) + filled)


def combine_ranks(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Combine the ranks' task gradients.

    Args:
        rows: result of :meth:`TaskGradients.pop_ended` on each rank, shape ``(ranks, iterations, 2 + sums)``.

    Returns:
        Norms in units of the unscaled loss and weights, shape ``(iterations,)`` each, and sums, ``(iterations, sums)``.
    """
    return *task_norms(rows[..., 0], rows[..., 1]), rows[..., 2:].sum(0)
