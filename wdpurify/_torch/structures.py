"""Reads and maps the leaves of nested dicts, lists and tuples, such as the tensors of a batch."""

from collections.abc import Callable, Mapping
from typing import Any


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to every leaf of nested mappings, lists and tuples.

    Mappings become dicts. A named tuple keeps its type, except for one that moves itself, such as a packed sequence: this is
    a leaf.
    """
    if isinstance(value, Mapping):
        return {name: mapped(function, entry) for name, entry in value.items()}
    if type(value) is list:
        return [mapped(function, entry) for entry in value]
    if type(value) is tuple or _is_named_tuple(value):
        entries = [mapped(function, entry) for entry in value]
        return type(value)(*entries) if _is_named_tuple(value) else tuple(entries)
    return function(value)


def leaves_of(value: Any) -> list[Any]:
    """Return the leaves of nested mappings, lists and tuples, in their order."""
    found: list[Any] = []
    mapped(found.append, value)
    return found


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields") and not hasattr(value, "to")
