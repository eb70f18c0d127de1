"""How the library keeps out of graphs that the user compiles around it."""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def in_compiled_backward() -> bool:
    """Whether the backward pass under way is one that compiled autograd traces."""
    module = sys.modules.get("torch._dynamo.compiled_autograd")
    return any(getattr(module, flag, False) for flag in ("compiled_autograd_enabled", "in_compiled_autograd_region"))


def outside_graphs(function: Function) -> Function:
    """Have torch.compile leave a function and all that it calls alone: a compiled function is cut in two there.

    The same as ``torch.compiler.disable``, which would import the whole compiler whenever this library is imported.
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
