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
