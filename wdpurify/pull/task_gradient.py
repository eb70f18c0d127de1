"""TaskGradient: the task gradient of one iteration at the features, added up over its backward passes."""

from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import moved
from wdpurify.functional import task_norms

from .coherence import count_of_sums


class TaskGradient:
    """Adds up what the backward passes of one iteration report, as gradient accumulation adds up gradients.

    Passes whose losses are divided by k, or added up, make one concatenated batch. At its features the task gradient has the
    norm ``sqrt(sum of squared norms)``, and the purify term, which every pass carries, has the sum of the factors as weight.
    Their ratio is the norm in units of the unscaled loss: loss scale and divisor cancel. So do they in the coherence, which is
    known where every pass has reported the sums that it needs.

    Attributes:
        factor: by which the last term was multiplied, with its sign, scalar; None before a backward pass.
        passes: how many backward passes came to a term.
        tokens: largest number of tokens of one row at which a gradient arrived, scalar; None for features without tokens.
    """

    def __init__(self) -> None:
        self.factor: Tensor | None = None
        self.passes = 0
        self.tokens: Tensor | None = None
        self._weight: Tensor | None = None
        self._norm: Tensor | None = None
        self._sums: Tensor | None = None

    @property
    def norm(self) -> Tensor | None:
        """Norm in units of the unscaled loss, scalar; None before a backward pass came through the features."""
        return None if self._norm is None or self._weight is None else self._norm / self._weight

    def add_weight(self, factor: Tensor, *, first: bool) -> None:
        """Record the factor by which a term was multiplied, a scalar; ``first`` for the first term of a backward pass."""
        self.factor = factor.detach()
        weight = self.factor.float().abs()
        self._weight = weight if self._weight is None else moved(self._weight, weight.device) + weight
        self.passes += first

    def add_norm(self, norm: Tensor, sums: Tensor | None, nothing: Tensor) -> None:
        """Record the norm of a task gradient as it came, after the weight of its term.

        Args:
            norm: scalar.
            sums: its sums over rows, see :func:`sums_over_rows`; None if they are not known.
            nothing: NaN of the shape of ``sums``.
        """
        assert self._weight is not None
        sums = moved(nothing if sums is None or len(sums) != len(nothing) else sums, self._weight.device)
        self._sums = sums if self._sums is None else moved(self._sums, sums.device) + sums
        norm = moved(norm.detach().float(), self._weight.device)
        self._norm = norm if self._norm is None else torch.hypot(moved(self._norm, norm.device), norm)

    def row(self) -> Tensor | None:
        """Norm, weight and sums in one row, shape ``(2 + sums,)``; None before a backward pass came through the features."""
        if self._norm is None or self._weight is None or self._sums is None:
            return None
        device = self._sums.device
        return torch.cat([moved(self._norm, device)[None], moved(self._weight, device)[None], self._sums])

    @classmethod
    def from_row(cls, row: Tensor, passes: int) -> "TaskGradient":
        """What had the given :meth:`row` after ``passes`` backward passes."""
        made = cls()
        made._norm, made._weight, made._sums = row[0].clone(), row[1].clone(), row[2:].clone()
        made.passes = passes
        return made


class TaskGradients:
    """The task gradients of the iterations since the last acting step, and of the iteration under way.

    A gradient that is only asked for (``torch.autograd.grad``) trains nothing where another one is accumulated. So the two are
    added up apart, and those that were asked for count only in an iteration without the others.

    Args:
        feature_dim: width of the features.
        every: iterations from one acting step to the next, at least 1.

    Attributes:
        nothing: NaN in place of sums that are not known.
        accumulated, asked_for: of the iteration under way.
        batched: whether several gradients ever came in one vectorised call, of which none is recorded.
    """

    def __init__(self, feature_dim: int, *, every: int) -> None:
        self.batched = False
        self._every = every
        self.nothing = torch.full((count_of_sums(feature_dim),), torch.nan, device="cpu")
        self.accumulated = TaskGradient()
        self.asked_for = TaskGradient()
        self._ended: list[TaskGradient] = []
        self._passes_before = 1

    @property
    def current(self) -> TaskGradient:
        """What counts of the iteration under way."""
        return self.accumulated if self.accumulated.passes else self.asked_for

    @property
    def passes_before(self) -> int:
        """How many passes the last ended iteration had, at least 1."""
        return max(1, self._ended[-1].passes) if self._ended else self._passes_before

    @property
    def latest(self) -> TaskGradient:
        """What counts of the iteration under way, or of the last ended one while no backward pass has come."""
        return self._ended[-1] if self._ended and self.current.norm is None else self.current

    def begin(self) -> None:
        """Begin an iteration, or begin it again where its gradients were set to None before the optimiser saw them."""
        self.accumulated = TaskGradient()
        self.asked_for = TaskGradient()

    def end(self) -> None:
        """End the iteration; one without a backward pass is kept too, so that all ranks keep equally many."""
        self._ended.append(self.current)
        self.begin()

    def take(self) -> Tensor:
        """The iterations since the last acting step, once: norm, weight, sums; NaN where there were fewer.

        Returns:
            Shape ``(every, 2 + sums)``.
        """
        rows = self._rows(self._ended)
        self._passes_before = self.passes_before
        self._ended = []
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Iterations that were not taken yet, and the one under way, as a tensor of one shape; and numbers of passes."""
        rows = torch.cat([self._rows(self._ended), self._rows([self.current])[-1:]])
        return {"rows": rows.cpu(), "passes": self.current.passes, "passes_before": self.passes_before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        *ended, current = state["rows"]
        self.begin()
        self._passes_before = state["passes_before"]
        self._ended = [TaskGradient.from_row(row, state["passes_before"]) for row in ended if not row.isnan().all()]
        if state["passes"]:
            self.accumulated = TaskGradient.from_row(current, state["passes"])

    def _rows(self, gradients: list[TaskGradient]) -> Tensor:
        """The last ``every`` gradients as rows, after as many rows of NaN as there are fewer."""
        rows = [each.row() for each in gradients[-self._every :]]
        device = next((row.device for row in rows if row is not None and row.device.type != "cpu"), torch.device("cpu"))
        empty = torch.full((2 + len(self.nothing),), torch.nan, device=device)
        filled = [empty if row is None else moved(row.detach(), device) for row in rows]
        return torch.stack([empty] * (self._every - len(filled)) + filled)


def observations(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per iteration the norm of the unscaled task gradient and its weight, shape ``(iterations,)``, and its sums over rows.

    Args:
        rows: what :meth:`TaskGradients.take` gave on each rank, shape ``(ranks, iterations, 2 + sums)``.
    """
    return *task_norms(rows[..., 0], rows[..., 1]), rows[..., 2:].sum(0)
