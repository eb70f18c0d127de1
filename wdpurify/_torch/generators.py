"""Finds the random generators that a model, a data set or a transform holds, beside the global ones."""

import random
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

#: Largest number of objects that are looked at, and length from which a container holds data and no parts.
MOST = 20_000
LONG = 100
_PLAIN = (str, bytes, int, float, complex, type(None), Tensor, type, ModuleType, BuiltinFunctionType, torch.dtype, torch.device)
_SEVERAL = (list, tuple, set, frozenset, deque)
#: Methods that draw numbers when an item is read, a batch is transformed or a model is called.
_CALLED = ("__getitem__", "__call__", "forward")
_OF_MODULES = vars(nn.Module()).keys() - {"_modules"}


def generators_in(*roots: Any) -> list[Any]:
    """Return generators of torch, NumPy and ``random`` that are reachable from some objects.

    The search follows attributes, entries of containers of at most 100 entries, and arguments of ``partial``. It also follows
    the closures of functions and methods, and the variables of their module that they name. It skips objects that raise.
    """
    generators: list[Any] = []
    seen: dict[int, Any] = {}
    waiting = deque(roots)
    while waiting and len(seen) < MOST:
        value = waiting.popleft()
        try:
            if isinstance(value, _PLAIN) or id(value) in seen:
                continue
            seen[id(value)] = value
            if _is_generator(value):
                generators.append(value)
            else:
                waiting.extend(_parts_of(value))
        except Exception:
            continue
    return generators


def _names_in(code: CodeType) -> Iterator[str]:
    """Names that a function uses, those in its lambdas and comprehensions too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _is_generator(value: Any) -> bool:
    of_numpy = type(value).__module__.startswith("numpy.random") and type(value).__name__ in ("Generator", "RandomState")
    return of_numpy or isinstance(value, torch.Generator) or type(value) is random.Random


def _parts_of(value: Any) -> Iterable[Any]:
    kind = type(value)
    if issubclass(kind, dict):
        return list(islice(value.values(), LONG)) if len(value) <= LONG else ()
    if issubclass(kind, _SEVERAL):
        return list(islice(value, LONG)) if len(value) <= LONG else ()
    if kind is partial:
        return value.func, value.args, value.keywords
    if kind is MethodType:
        return value.__self__, value.__func__
    if kind is FunctionType:
        named = (value.__globals__.get(name) for name in _names_in(value.__code__))
        cells = (cell.cell_contents for cell in value.__closure__ or () if cell != type(cell)())  # an empty one raises
        return *cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *named
    is_plain = getattr(kind, "__getattribute__") is object.__getattribute__  # noqa: B009 - mypy compares their types
    attributes = getattr(value, "__dict__", {}) if is_plain else {}
    unread = _OF_MODULES if issubclass(kind, nn.Module) else ()
    functions = [
        function for function in vars(kind).values() if isinstance(function, FunctionType)
    ]  # helpers of the called ones
    methods = [*(getattr(kind, name, None) for name in _CALLED), *(functions if len(functions) <= LONG else ())]
    return [*(part for name, part in attributes.items() if name not in unread), *methods]
