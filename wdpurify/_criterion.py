"""A criterion that adds the purify term by itself, for loops of the form ``loss = criterion(model(x), y)``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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
        self._inner, self._purify = criterion, purify

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
        inner = self.__dict__["_inner"]
        attribute = getattr(inner, name)
        if not callable(attribute):
            return attribute

        def forwarded(*arguments: Any, **named: Any) -> Any:
            result = attribute(*arguments, **named)
            return self if result is inner else result  # `criterion.cuda()` must not lose the wrapper

        return forwarded
