"""A criterion that adds the purify term by itself, for loops of the form ``loss = criterion(model(x), y)``."""

import copy
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify.pull import with_pull

#: Gives the term of the pass that a loss belongs to; None where there is none.
TermSource = Callable[[Tensor], Tensor | None]


class PurifiedCriterion:
    """Calls the user's criterion and adds the purify term's gradient to each result of a pass; the value stays as it is.

    A pass is the training forwards since the last one. Each of its results carries the term, so that it acts through whichever
    is back-propagated, with the weight that the results have together; losses of other models get none. Everything else passes
    through to the inner criterion: arguments, attributes, ``to()`` and the like. Nothing is added while grad mode is off, or
    where no pass is under way. Each entry of a loss per sample carries the term, so that their mean carries it once.
    A pickle holds the inner criterion alone: what is loaded adds nothing until it is wrapped again.

    Args:
        criterion: the user's loss function; must return a tensor.
        term: gives the term.
    """

    def __init__(self, criterion: Callable[..., Any], term: TermSource) -> None:
        known: dict[str, Any] = {
            name: getattr(criterion, name) for name in functools.WRAPPER_ASSIGNMENTS if hasattr(criterion, name)
        }
        # Past `__setattr__`, which speaks to the inner one.
        self.__dict__.update(known, __wrapped__=criterion, _inner=criterion, _term=term)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        loss = self._inner(*arguments, **named)
        if not torch.is_grad_enabled():
            return loss
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"the wrapped criterion must return a tensor, got {type(loss).__name__}; call "
                "`purify.critic_step()` and add `purify.loss(features)` to the loss yourself"
            )
        term = self._term(loss)
        return loss if term is None else with_pull(loss, term)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_inner", "_term"):
            raise AttributeError(name)
        inner = self._inner
        attribute = getattr(inner, name)
        if getattr(attribute, "__self__", None) is not inner:
            return attribute

        def forwarded(*arguments: Any, **named: Any) -> Any:
            result = attribute(*arguments, **named)
            return self if result is inner else result  # `criterion.cuda()` must not lose the wrapper

        return forwarded

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PurifiedCriterion":
        inner = copy.deepcopy(self._inner, memo)
        return purified(inner, self._term)

    def __reduce__(self) -> Any:
        return copy.copy, (self._inner,)  # a saved model holds the user's criterion, and needs no wdpurify to be read


#: Inner criterion and source of the term of each wrapped module: an attribute would be seen in the criterion's own, which
#: wrapper and criterion share, and one of the wrapper's class would live until the garbage collector comes by.
_links: "weakref.WeakKeyDictionary[PurifiedModule, tuple[nn.Module, TermSource]]" = weakref.WeakKeyDictionary()


class PurifiedModule(PurifiedCriterion, nn.Module):
    """The same for a criterion that is a module, so that it can take that one's place inside another module.

    Made by :func:`purified_module`, as a subclass of the criterion's own class and with the criterion's own attributes: type
    checks, names, modes, moves and ``state_dict()`` keys are as without it.
    """

    @property
    def _inner(self) -> nn.Module:
        return _links[self][0]

    @property
    def _term(self) -> TermSource:
        return _links[self][1]


def purified(criterion: Callable[..., Any], term: TermSource) -> PurifiedCriterion:
    """Wrap a criterion."""
    return purified_module(criterion, term) if isinstance(criterion, nn.Module) else PurifiedCriterion(criterion, term)


def sources_of(criterion: Callable[..., Any]) -> Iterator[TermSource]:
    """The sources of the terms that a criterion carries already, outermost first."""
    while isinstance(criterion, PurifiedCriterion):
        yield criterion._term
        criterion = criterion._inner


def purified_module(criterion: nn.Module, term: TermSource) -> PurifiedModule:
    """Wrap a criterion that is a module, wrapped already or not."""
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
