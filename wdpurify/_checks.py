"""Argument checks; each message states the argument, the need and the value that the caller gave."""

import math
from numbers import Real


def check_object(name: str, value: object, members: tuple[str, ...], remedy: str) -> None:
    """Check that an argument has some attributes or methods, and is no class in place of an object of it.

    Raises:
        TypeError: if not; with the remedy.
    """
    if isinstance(value, type):
        raise TypeError(f"`{name}` must be an object, got the class {value.__name__}. {remedy}")
    if lacking := [member for member in members if not hasattr(value, member)]:
        raise TypeError(f"`{name}` must have `{lacking[0]}`, got {type(value).__name__}. {remedy}")


def check_positive_integer(name: str, value: object) -> int:
    """Return ``value`` as an integer of at least 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"`{name}` must be an integer, got {type(value).__name__}")
    number = value.__index__()
    if not number >= 1:
        raise ValueError(f"`{name}` must be at least 1, got {number}")
    return int(number)


def check_not_negative(name: str, value: float) -> float:
    """Return ``value`` as a finite number of at least 0."""
    if not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"`{name}` must be a finite number of at least 0, got {value}")
    return float(value)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value
