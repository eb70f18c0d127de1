"""Keeps the library's functions out of graphs that the user compiles."""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def in_compiled_backward() -> bool:
    """Whether compiled autograd traces the current backward pass."""
    module = sys.modules.get("torch._dynamo.compiled_autograd")
    return any(getattr(module, flag, False) for flag in ("compiled_autograd_enabled", "in_compiled_autograd_region"))


def outside_graphs(function: Function) -> Function:
    """Exclude a function and its callees from torch.compile, with a graph break at the call.

    Equivalent to ``torch.compiler.disable``, which would import the whole compiler at the import of this library.
    """
    disabled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*arguments, **named)
        if not disabled:
            disabled.append(sys.modules["torch._dynamo"].disable(function))
        return disabled[0](*arguments, **named)

    marked: Any = call
    marked._torchdynamo_disable = True
    return marked  # type: ignore[no-any-return]
