"""Arguments under their former names, which work for one version."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def renamed(former: str, now: str) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Let a function take a keyword by its former name too, with a DeprecationWarning."""

    def of(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def called(*args: Any, **given: Any) -> Result:
            if former in given:
                warnings.warn(f"`{former}` is now `{now}`", DeprecationWarning, stacklevel=2)
                given[now] = given.pop(former)
            return function(*args, **given)

        return called

    return of
