"""A criterion that adds the purify term by itself, for loops of the form ``loss = criterion(model(x), y)``."""

import copy
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ._regularizer import PurifyRegularizer


class PurifiedCriterion:
    """Calls the user's criterion and adds the purify term once per training forward.

    Everything passes through to the inner criterion: arguments, attributes, ``to()`` and the like. Nothing is added while grad
    mode is off or when no training forward has come since the last call. A loss per sample gets the term added to every
    entry, so that its mean rises by exactly the term.

    Args:
        criterion: the user's loss function; must return a tensor.
        purify: a regularizer made by ``PurifyRegularizer.for_model``.
    """

    def __init__(self, criterion: Callable[..., Any], purify: "PurifyRegularizer") -> None:
        known: dict[str, Any] = {
            name: getattr(criterion, name) for name in functools.WRAPPER_ASSIGNMENTS if hasattr(criterion, name)
        }
        # Past `__setattr__`, which speaks to the inner one.
        self.__dict__.update(known, __wrapped__=criterion, _inner=criterion, _purify=purify)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        loss = self._inner(*arguments, **named)
        if not torch.is_grad_enabled():
            return loss
        term = self._purify._captured_loss()
        if term is None:
            return loss
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"the wrapped criterion must return a tensor, got {type(loss).__name__}; call "
                "`purify.critic_step()` and add `purify.loss(features)` to the loss yourself"
            )
        return loss + term

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_inner", "_purify"):
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
        return purified_module(inner, self._purify) if isinstance(inner, nn.Module) else PurifiedCriterion(inner, self._purify)

    def __reduce__(self) -> Any:
        return copy.copy, (self._inner,)  # a saved model holds the user's criterion, and needs no wdpurify to be read


class PurifiedModule(PurifiedCriterion, nn.Module):
    """The same for a criterion that is a module, so that it can take that one's place inside another module.

    Made by :func:`purified_module`, as a subclass of the criterion's own class and with the criterion's own attributes: type
    checks, names, modes, moves and ``state_dict()`` keys are as without it.
    """


def purified_module(criterion: nn.Module, purify: "PurifyRegularizer") -> PurifiedModule:
    """Wrap a criterion that is a module."""
    kind = type(criterion)
    made = type(kind.__name__, (PurifiedModule, kind), {"_inner": criterion, "_purify": purify, "__doc__": kind.__doc__})
    wrapped: PurifiedModule = object.__new__(made)
    object.__setattr__(wrapped, "__dict__", criterion.__dict__)
    return wrapped
