"""Pass: the training forwards that share one backward pass, and what that backward pass tells of itself."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wdpurify._torch import graph_is_kept, is_batched

from .coherence import projected, projections, sums_over_rows
from .graphs import depends_on
from .probe import Probe
from .task_gradient import TaskGradient

#: Features of one forward: its number in the pass, and the tensor.
Forward = tuple[int, Tensor]


class Pass:
    """Some training forwards until their backward pass is through; then it is let go.

    Hooks on the features hold it weakly, since a hook that held the features would keep them alive. What holds it is whoever
    caught the features, and the term that was made of them. It holds the newest features; earlier ones live as long as the
    user's graph needs them.

    Attributes:
        closed: whether a backward pass has gone through the features and freed their graph.
        announced: whether a term was asked for.
        weight: first parameter of the tapped layer in the last forward, weakly; None where none is tapped.
        probe: reports the gradient at the features in a compiled graph; None where hooks do.
    """

    def __init__(self) -> None:
        self.closed = False
        self.announced = False
        self.weight: weakref.ref[Tensor] | None = None
        self.probe: Probe | None = None
        self._newest: Tensor | None = None
        self._features: dict[int, weakref.ref[Tensor]] = {}
        self._count = 0
        self._projected: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._backward: _Backward | None = None

    def add(self, features: Tensor) -> None:
        """One more training forward, whose features are hooked."""
        number = self._count
        self._count += 1
        self._forget_the_dead()
        self._newest = features
        self._features[number] = weakref.ref(features)
        if self.probe is not None:
            return
        if features.requires_grad:
            features.register_hook(_GradientHook(self, number))
            if features.ndim == 2:
                of_features, of_gradients = projections(features.shape[1], features.device) or (None, None)
                self._projected[number] = projected(features, of_features), of_gradients
        if features.grad_fn is not None:
            # Not the tensor's hook: that one is called, too, when somebody only asks for the gradient at the features.
            features.grad_fn.register_hook(_ThroughHook(self))

    @property
    def forwards(self) -> list[Forward]:
        """The forwards whose features are still there, the newest last."""
        self._forget_the_dead()
        found = [(number, reference()) for number, reference in self._features.items()]
        return [(number, features) for number, features in found if features is not None]

    @property
    def newest(self) -> Any:
        """Features of the newest forward; None once the pass is closed."""
        return self._newest

    def behind(self, loss: Tensor) -> list[Forward]:
        """The forwards that a loss comes from: the graph of the others may be freed before it is back-propagated.

        In a compiled graph earlier forwards are not kept: a loss that does not come from the last one may come from them.
        """
        forwards = self.forwards
        kept = [(number, features) for number, features in forwards if depends_on(loss, features)]
        return kept or (forwards if self.probe is not None and loss.requires_grad else [])

    def term_came(
        self, factor: Tensor, numbers: Sequence[int], sent: dict[int, Tensor], into: TaskGradient, nothing: Tensor
    ) -> None:
        """The backward pass has come to a term.

        Args:
            factor: of the term, scalar.
            numbers: of the forwards that the term reads.
            sent: what the term sends to their features, by number.
            into: gets what is measured.
            nothing: NaN in place of sums that are not known.
        """
        task = torch._C._current_graph_task_id()
        first = self._backward is None or self._backward.done or self._backward.task != task
        if first:
            self._backward = _Backward(task, into, nothing)
        backward = self._backward
        assert backward is not None
        backward.into.add_weight(factor, first=first)
        if self.probe is not None:
            self.probe.expect(self._probe_came)
            return
        for number, gradient in sent.items():
            backward.sent[number] = backward.sent[number] + gradient if number in backward.sent else gradient
        backward.awaited |= set(numbers)

    def gradient_came(self, number: int, gradient: Tensor | None) -> None:
        """The backward pass has come to the features of a forward; one without the term teaches nothing."""
        backward = self._backward
        if backward is None or number not in backward.awaited or backward.task != torch._C._current_graph_task_id():
            return
        backward.awaited.discard(number)
        backward.done = not backward.awaited
        sent = backward.sent.pop(number, None)
        known = self._projected.get(number)
        if gradient is None:  # nothing of the task came back to these features
            backward.add(torch.zeros((), device="cpu"))
            return
        task = gradient.detach().float()
        task = task if sent is None else task - sent.float()
        if task.ndim == 3 and task.shape[1] > 1:
            count = (task.abs().amax(-1) > 0).sum(1).max()
            backward.into.tokens = torch.where(count > 0, count, torch.nan)
        backward.add(task.norm(), None if known is None else sums_over_rows(known[0], task, known[1]))

    def close(self) -> None:
        """The graph is gone, and with it all that is held for it."""
        self.closed = True
        self._newest = None
        self._projected = {}

    def _probe_came(self, norm: Tensor | None, sums: Tensor | None) -> None:
        if self._backward is not None:
            self._backward.done = True
            if norm is not None:
                self._backward.add(norm, sums)
        self.close()

    def _forget_the_dead(self) -> None:
        for number in [number for number, reference in self._features.items() if reference() is None]:
            del self._features[number]
            self._projected.pop(number, None)


class _Backward:
    """One backward pass that has come to a term.

    Attributes:
        task: torch's number of it.
        into: gets what is measured.
        awaited: numbers of the forwards whose gradient is still to come.
        sent: what the terms sent to their features.
        done: whether all that was awaited has come.
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
    """Hook of a tensor: reports the gradient at the features."""

    def __init__(self, owner: Pass, number: int) -> None:
        self._pass = weakref.ref(owner)
        self._number = number

    def __call__(self, gradient: Tensor | None) -> None:
        owner = self._pass()
        if owner is not None and not (gradient is not None and is_batched(gradient)):
            owner.gradient_came(self._number, gradient)


class _ThroughHook:
    """Hook of an autograd node: the backward pass has gone through it."""

    def __init__(self, owner: Pass) -> None:
        self._pass = weakref.ref(owner)

    def __call__(self, *_: Any) -> None:
        owner = self._pass()
        if owner is not None and not graph_is_kept():
            owner.close()
