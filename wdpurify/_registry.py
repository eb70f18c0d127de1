"""Maps models to their regularizers with weak references on both sides, and without a change to the model."""

import weakref
from typing import Any

from torch import nn

_made: "weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[Any]]" = weakref.WeakKeyDictionary()


def register(model: nn.Module, regularizer: Any) -> None:
    """Register a regularizer for as long as it and the model live."""
    _made.setdefault(model, weakref.WeakSet()).add(regularizer)


def unregister(model: nn.Module, regularizer: Any) -> None:
    """Remove a regularizer from the registry."""
    _made.get(model, weakref.WeakSet()).discard(regularizer)


def adds_already(regularizer: Any, others: list[Any]) -> bool:
    """Whether a criterion with the terms of ``others`` already carries the term of ``regularizer``.

    Raises:
        ValueError: if it carries the term of another regularizer with the same layer and auxiliary rows.
    """
    tap, sampler = regularizer.tap, regularizer.sampler
    draws_like = getattr(sampler, "draws_like", lambda other: other is sampler)
    for other in others:
        acts = other is not regularizer and other in _made.get(tap.model, ())
        if acts and other.tap.layer == tap.layer and draws_like(other.sampler):
            raise ValueError(
                "`criterion` already carries the purify term of another regularizer for the same layer and auxiliary rows, and "
                "their pulls would add up. Make the regularizer and its criterion once, before the loop"
            )
    return regularizer in others


def is_alone(model: nn.Module) -> bool:
    """Whether a model has at most one regularizer."""
    return len(_made.get(model, ())) < 2


def regularizer_of(model: nn.Module) -> Any:
    """Return the only regularizer of a model, or else of its submodules.

    Raises:
        LookupError: if the model has none, or more than one.
    """
    regularizers = list(_made.get(model, ())) or [made for part in model.modules() for made in _made.get(part, ())]
    if len(regularizers) != 1:
        raise LookupError(
            f"`model` has {len(regularizers) or 'no'} regularizers, and `of()` needs exactly one for this very model. Keep the "
            "regularizer in a variable and pass that instead"
        )
    return regularizers[0]
