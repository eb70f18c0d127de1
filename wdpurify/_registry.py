"""Which regularizer was made for which model, held weakly on both sides, without a trace on the model."""

import weakref
from typing import Any

from torch import nn

_made: "weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[Any]]" = weakref.WeakKeyDictionary()


def made_for(model: nn.Module, regularizer: Any) -> None:
    """Remember a regularizer for as long as it and the model live."""
    _made.setdefault(model, weakref.WeakSet()).add(regularizer)


def forget(model: nn.Module, regularizer: Any) -> None:
    """Take a regularizer out."""
    _made.get(model, weakref.WeakSet()).discard(regularizer)


def adds_already(regularizer: Any, others: list[Any]) -> bool:
    """Whether a criterion that carries the terms of ``others`` carries that of ``regularizer``, which is not to be added twice.

    Raises:
        ValueError: if it carries that of one made for the same layer and the same auxiliary rows, as in a loop over epochs.
    """
    tap, sampler = regularizer.tap, regularizer.sampler
    draws_like = getattr(sampler, "draws_like", lambda other: other is sampler)
    for other in others:
        acts = other is not regularizer and other in _made.get(tap.model, ())
        if acts and other.tap.layer == tap.layer and draws_like(other.sampler):
            raise ValueError(
                "`criterion` carries the purify term of another regularizer for the same layer and auxiliary rows already, and "
                "their pulls would add up: make the regularizer and its criterion once, before the loop"
            )
    return regularizer in others


def is_alone(model: nn.Module) -> bool:
    """Whether there is no other regularizer for a model."""
    return len(_made.get(model, ())) < 2


def regularizer_of(model: nn.Module) -> Any:
    """The one regularizer made for a model, or else for a part of it.

    Raises:
        LookupError: if there is none, or more than one.
    """
    found = list(_made.get(model, ())) or [made for part in model.modules() for made in _made.get(part, ())]
    if len(found) != 1:
        raise LookupError(
            f"`model` has {len(found) or 'no'} regularizers, and `of()` finds the only one made for this very model and not "
            "removed: keep it in a variable of its own, and pass that where it is needed"
        )
    return found[0]
