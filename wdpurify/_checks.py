"""Argument checks; each message states the argument, the need and the value that the caller gave."""

import math


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
    if not 0 <= value < math.inf:
        raise ValueError(f"`{name}` must be a finite number of at least 0, got {value}")
    return float(value)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value
