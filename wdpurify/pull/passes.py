"""Pass: the training forwards that share one backward pass, and the task gradient that this backward pass brings."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import graph_is_kept, is_batched

from .coherence import project, projections, sums_over_rows
from .graphs import depends_on
from .probe import Probe
from .task_gradient import TaskGradient

#: Key of features in the metadata of an autograd node.
_KEPT = "wdpurify"
#: Features of one forward: its number in the pass, and the tensor.
Forward = tuple[int, Tensor]


class Pass:
    """The training forwards of one backward pass. The object lives until that backward pass ends.

    Hooks on the features hold a weak reference to the pass, because a hook that holds the features would keep them alive. The
    tap (or the loop) and the term hold strong references. The pass holds only the newest features, until :meth:`let_go`;
    other features live as long as the caller's graph, see :meth:`keep_with`.

    Attributes:
        was_through: whether a backward pass has freed the graph of any of its forwards.
        has_term: whether the pass already has a term.
        weight: weak reference to the first parameter of the tapped layer in the last forward; None without a tapped layer.
        probe: measures the gradient at the features in a compiled graph; None if hooks measure it.
    """

    def __init__(self) -> None:
        self.was_through = False
        self.has_term = False
        self.weight: weakref.ref[Tensor] | None = None
        self.probe: Probe | None = None
        self._newest: Tensor | None = None
        self._features: dict[int, weakref.ref[Tensor]] = {}
        self._kept: dict[int, weakref.ref[_Kept]] = {}
        self._count = 0
        self._projected: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._backward: _Backward | None = None

    def add(self, features: Tensor) -> None:
        """Add a training forward and hook its features."""
        number = self._count
        self._count += 1
        self._drop_freed()
        self._newest = features
        self._features[number] = weakref.ref(features)
        if self.probe is not None:
            return
        if features.requires_grad:
            features.register_hook(_GradientHook(self, number))
            if features.ndim == 2:
                of_features, of_gradients = projections(features.shape[1], features.device) or (None, None)
                self._projected[number] = project(features, of_features), of_gradients
        if features.grad_fn is not None:
            # Not a tensor hook: `autograd.grad(loss, features)` calls tensor hooks too, and frees no graph behind the features.
            features.grad_fn.register_hook(_ThroughHook(self, number))

    def keep_with(self, output: Tensor) -> None:
        """Keep the newest features alive as long as the graph of a tensor made of them.

        A layer need not save its input for the backward pass: a frozen one does not, nor one whose input autocast converts.
        """
        features, node = self._newest, output.grad_fn
        if features is not None and node is not None and node is not features.grad_fn:  # no cycle
            kept = _Kept(features)
            node.metadata[_KEPT] = kept  # type: ignore[index]
            self._kept[self._count - 1] = weakref.ref(kept)

    @property
    def closed(self) -> bool:
        """Whether no further loss can depend on the features."""
        return self.was_through and not self.forwards

    @property
    def forwards(self) -> list[Forward]:
        """The forwards whose features and graph are alive, the newest last."""
        self._drop_freed()
        numbered = [(number, reference()) for number, reference in self._features.items()]
        return [(number, features) for number, features in numbered if features is not None]

    @property
    def newest(self) -> Any:
        """Features of the newest forward; None after :meth:`let_go` and after their backward pass."""
        return self._newest

    def forwards_behind(self, loss: Tensor) -> list[Forward]:
        """Return the forwards that a loss depends on; the graphs of the others may be freed before its backward pass.

        A compiled graph keeps only its last forward. A loss that does not depend on that one may depend on an earlier one, so
        the result is then the last forward.
        """
        forwards = self.forwards
        kept = [(number, features) for number, features in forwards if depends_on(loss, features)]
        return kept or (forwards if self.probe is not None and loss.requires_grad else [])

    def record_term(
        self, factor: Tensor, numbers: Sequence[int], sent: dict[int, Tensor], into: TaskGradient, nothing: Tensor
    ) -> None:
        """Record that the backward pass has reached a term.

        Args:
            factor: factor of the term in the loss, scalar.
            numbers: numbers of the forwards whose features the term reads.
            sent: gradient that the term sends to the features, by the number of the forward.
            into: receives the measured task gradient.
            nothing: NaN in place of unknown sums.
        """
        task = torch._C._current_graph_task_id()
        first = self._backward is None or self._backward.done or self._backward.task != task
        if first:
            self._backward = _Backward(task, into, nothing)
        backward = self._backward
        assert backward is not None
        backward.into.add_weight(factor, first=first)
        if self.probe is not None:
            self.probe.report_next(self._record_probe)
            return
        for number, gradient in sent.items():
            backward.sent[number] = backward.sent[number] + gradient if number in backward.sent else gradient
        backward.awaited |= set(numbers)

    def record_gradient(self, number: int, gradient: Tensor | None) -> None:
        """Record the gradient at the features of a forward; without a term in this backward pass it is ignored."""
        backward = self._backward
        if backward is None or number not in backward.awaited or backward.task != torch._C._current_graph_task_id():
            return
        backward.awaited.discard(number)
        backward.done = not backward.awaited
        sent = backward.sent.pop(number, None)
        projection = self._projected.get(number)
        if gradient is None:  # the task sends no gradient to these features
            backward.add(torch.zeros((), device="cpu"))
            return
        task = gradient.detach().float()
        task = task if sent is None else task - sent.float()
        if task.ndim == 3 and task.shape[1] > 1:
            count = (task.abs().amax(-1) > 0).sum(1).max()
            backward.into.tokens = torch.where(count > 0, count, torch.nan)
        backward.add(task.norm(), None if projection is None else sums_over_rows(projection[0], task, projection[1]))

    def close(self, number: int) -> None:
        """Release the features of a forward after a backward pass has freed their graph."""
        self.was_through = True
        self._features.pop(number, None)
        self._projected.pop(number, None)
        kept = self._kept.pop(number, lambda: None)()
        if kept is not None:  # the caller may keep the loss, and with it the node
            kept.features = None
        if self._backward is not None and self._backward.done and not self._features:
            self._backward = None
        if number == self._count - 1:
            self._newest = None

    def let_go(self) -> None:
        """Hold no features any more; those that live on still count."""
        self._newest = None

    def _record_probe(self, norm: Tensor | None, sums: Tensor | None) -> None:
        if self._backward is not None:
            self._backward.done = True
            if norm is not None:
                self._backward.add(norm, sums)
        for number in range(self._count):
            self.close(number)

    def _drop_freed(self) -> None:
        for number in [number for number, reference in self._features.items() if reference() is None]:
            del self._features[number]
            self._projected.pop(number, None)
            self._kept.pop(number, None)


class _Kept:
    """Features in the metadata of a later autograd node."""

    def __init__(self, features: Tensor) -> None:
        self.features: Tensor | None = features


class _Backward:
    """One backward pass that has reached a term.

    Attributes:
        task: torch's number of this backward pass.
        into: receives the measured task gradient.
        awaited: numbers of the forwards without a recorded gradient so far.
        sent: gradients that the terms sent to the features, by the number of the forward.
        done: whether every awaited gradient is recorded.
    """

    def __init__(self, task: int, into: TaskGradient, nothing: Tensor) -> None:
        self.task = task
        self.into = into
        self.awaited: set[int] = set()
        self.sent: dict[int, Tensor] = {}
        self.done = False
        self._nothing = nothing

    def add(self, norm: Tensor, sums: Tensor | None = None) -> None:
        self.into.add_norm(norm, sums, self._nothing)


class _GradientHook:
    """Tensor hook that reports the gradient at the features."""

    def __init__(self, owner: Pass, number: int) -> None:
        self._pass = weakref.ref(owner)
        self._number = number

    def __call__(self, gradient: Tensor | None) -> None:
        owner = self._pass()
        if owner is not None and not (gradient is not None and is_batched(gradient)):
            owner.record_gradient(self._number, gradient)


class _ThroughHook:
    """Hook of the autograd node of the features; ends their forward after the node has run."""

    def __init__(self, owner: Pass, number: int) -> None:
        self._pass = weakref.ref(owner)
        self._number = number

    def __call__(self, *_: Any) -> None:
        owner = self._pass()
        if owner is not None and not graph_is_kept():
            owner.close(self._number)
