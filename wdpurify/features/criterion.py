"""Wraps a criterion so that it adds the purify term, for loops of the form ``loss = criterion(model(x), y)``."""

import copy
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify._checks import check_object
from wdpurify.pull import add_term

#: Returns the term of the forward pass behind a loss, or None if there is no term.
TermSource = Callable[[Tensor], Tensor | None]


class PurifiedCriterion:
    """Calls your criterion and adds the purify term's gradient to each result of a pass; the loss value does not change.

    A pass consists of the training forwards since the previous pass. Each result of a pass carries the term. So the term acts
    through any result that you back-propagate, with the joint weight of the results. Losses of other models carry no term.
    Each entry of a per-sample loss carries the term, so the mean of the entries carries it once. The wrapper adds nothing
    while grad mode is off or outside a pass. It forwards everything else to the inner criterion: arguments, attributes,
    ``to()`` and the like. A pickle holds only the inner criterion, so wrap a loaded criterion again.

    Args:
        criterion: your loss function; must return a tensor.
        term: returns the term.
    """

    def __init__(self, criterion: Callable[..., Any], term: TermSource) -> None:
        attributes: dict[str, Any] = {
            name: getattr(criterion, name) for name in functools.WRAPPER_ASSIGNMENTS if hasattr(criterion, name)
        }
        # Bypasses `__setattr__`, which sets attributes of the inner criterion.
        self.__dict__.update(attributes, __wrapped__=criterion, _inner=criterion, _term=term)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        loss = self._inner(*arguments, **named)
        if not torch.is_grad_enabled():
            return loss
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"the wrapped criterion must return a tensor, got {type(loss).__name__}. Use the criterion without the "
                "wrapper, and add `purify.loss(features)` to the loss in your loop"
            )
        term = self._term(loss)
        return loss if term is None else add_term(loss, term)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_inner", "_term"):
            raise AttributeError(name)
        inner = self._inner
        attribute = getattr(inner, name)
        if getattr(attribute, "__self__", None) is not inner:
            return attribute

        def forwarded(*arguments: Any, **named: Any) -> Any:
            result = attribute(*arguments, **named)
            return self if result is inner else result  # `criterion = criterion.cuda()` must return the wrapper

        return forwarded

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PurifiedCriterion":
        inner = copy.deepcopy(self._inner, memo)
        return wrap_criterion(inner, self._term)

    def __reduce__(self) -> Any:
        return copy.copy, (self._inner,)  # a saved model holds the user's criterion, and loads without wdpurify


#: Inner criterion and term source of each wrapped module. Stored outside the wrapper: wrapper and criterion share one
#: `__dict__`, and an attribute of the wrapper's class would keep the criterion alive.
_links: "weakref.WeakKeyDictionary[PurifiedModule, tuple[nn.Module, TermSource]]" = weakref.WeakKeyDictionary()


class PurifiedModule(PurifiedCriterion, nn.Module):
    """A :class:`PurifiedCriterion` around a module, which can replace that module inside another module.

    :func:`wrap_module` makes it an instance of a subclass of the criterion's class and lets it share the criterion's
    ``__dict__``: type checks, names, train and eval mode, ``to()`` and ``state_dict()`` keys are the same as without it.
    """

    @property
    def _inner(self) -> nn.Module:
        return _links[self][0]

    @property
    def _term(self) -> TermSource:
        return _links[self][1]


def wrap_criterion(criterion: Callable[..., Any], term: TermSource) -> PurifiedCriterion:
    """Wrap a criterion; TypeError for what is none."""
    check_object("criterion", criterion, ("__call__",), "Give for example `nn.CrossEntropyLoss()`")
    return wrap_module(criterion, term) if isinstance(criterion, nn.Module) else PurifiedCriterion(criterion, term)


def term_sources(criterion: Callable[..., Any]) -> Iterator[TermSource]:
    """Yield the sources of the terms that a criterion already carries, outermost first."""
    while isinstance(criterion, PurifiedCriterion):
        yield criterion._term
        criterion = criterion._inner


def wrap_module(criterion: nn.Module, term: TermSource) -> PurifiedModule:
    """Wrap a criterion that is a module; the module may already be a wrapper."""
    wrapped: PurifiedModule = object.__new__(_wrapping_class(type(criterion)))  # type: ignore[arg-type]
    object.__setattr__(wrapped, "__dict__", criterion.__dict__)
    _links[wrapped] = criterion, term
    return wrapped


@functools.lru_cache(maxsize=64)
def _wrapping_class(kind: Any) -> type[PurifiedModule]:
    if issubclass(kind, PurifiedModule):
        return kind  # type: ignore[no-any-return]
    made: type[PurifiedModule] = type(kind.__name__, (PurifiedModule, kind), {"__doc__": kind.__doc__})
    return made
