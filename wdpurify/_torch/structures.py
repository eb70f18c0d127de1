"""Reads and maps the leaves of nested dicts, lists and tuples, such as the tensors of a batch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to every leaf of nested mappings, lists and tuples.

    Mappings become dicts. A named tuple keeps its type, except for one that moves itself, such as a packed sequence: this is
    a leaf.
    """
    if isinstance(value, Mapping):
        return {name: map_leaves(function, entry) for name, entry in value.items()}
    if type(value) is list:
        return [map_leaves(function, entry) for entry in value]
    if type(value) is tuple or _is_named_tuple(value):
        entries = [map_leaves(function, entry) for entry in value]
        return type(value)(*entries) if _is_named_tuple(value) else tuple(entries)
    return function(value)


def leaves_of(value: Any) -> list[Any]:
    """Return the leaves of nested mappings, lists and tuples, in their order."""
    leaves: list[Any] = []
    map_leaves(leaves.append, value)
    return leaves


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields") and not hasattr(value, "to")


def plain(value: Any) -> Any:
    """Return a plain tensor, with its graph, for one of a subclass that only holds further data (MONAI's MetaTensor).

    Tensors that compute in their own way (sharded, nested, quantised) do not change, nor do other objects.
    """
    kind = type(value)
    if kind is Tensor or not isinstance(value, Tensor) or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return value
    if kind.__torch_function__ is torch._C._disabled_torch_function_impl:  # parameters, whose results are plain
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(Tensor)
