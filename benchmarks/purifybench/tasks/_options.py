"""Which options of a benchmark a task's builder takes: those that it names, and that `TASKS` has not given already."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ._types import Task


def options_for(build: Callable[..., Task], options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options of a benchmark those that a builder takes; one that is None is left to the builder's default."""
    taken = _open_options(build)
    return {name: value for name, value in options.items() if name in taken and value is not None}


def needed_options(build: Callable[..., Task]) -> list[str]:
    """Names of the options without which a builder cannot do."""
    return [name for name, option in _open_options(build).items() if option.default is option.empty]


def _open_options(build: Callable[..., Task]) -> dict[str, inspect.Parameter]:
    given = build.keywords if isinstance(build, partial) else {}
    options = inspect.signature(build).parameters
    return {name: option for name, option in options.items() if name != "seed" and name not in given}
