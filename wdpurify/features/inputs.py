"""Calls a function with a batch of any structure: by keyword, by position or as one argument."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify._torch import leaves_of, map_leaves

from .pooling import LARGEST_INPUT, replace_rows, usable_rows
from .tap import FeatureTap

#: Entry that tells tokens from padding.
MASK = "attention_mask"


def call_with(function: Callable[..., Any], inputs: Any) -> Any:
    """Call a function with a batch.

    A mapping is given by keyword. A function that has none of its names and can be called with one argument gets the mapping
    whole. A tuple is given by position if the function takes so many arguments. A list is given whole, or by position if the
    function needs so many arguments.
    """
    positional, named = _arguments(function, inputs)
    return function(*positional, **named)


def takes_several(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many arguments by position; False if that is unknown."""
    signature = _signature(function)
    return signature is not None and _binds(signature, *[None] * count)


def attention_mask_of(function: Callable[..., Any], inputs: Any) -> Tensor | None:
    """Return the batch's attention mask, which may be nested or given by position; None without one or with several."""
    if isinstance(inputs, Tensor):
        return None
    positional, named = _arguments(function, inputs)
    signature = _signature(function)
    if signature is not None and _binds(signature, *positional, **named):
        inputs = signature.bind(*positional, **named).arguments
    masks = _masks(inputs)
    return masks[0] if len(masks) == 1 else None


def usable_inputs(inputs: Any, count: int) -> tuple[Any, Tensor | None]:
    """Return a batch that a model may change in place, with its unusable rows replaced.

    Returns:
        The inputs, and the mask of the usable rows, bool, shape ``(count,)``. The mask is None if no tensor can be checked.
    """

    def is_checked(leaf: Any) -> bool:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.is_nested:
            return isinstance(leaf, Tensor) and leaf.is_nested
        return leaf.layout == torch.strided and leaf.ndim > 0 and len(leaf) == count

    checked = [leaf for leaf in leaves_of(inputs) if is_checked(leaf)]
    if not checked or any(tensor.is_nested for tensor in checked):
        return map_leaves(_own, inputs), None
    several = len(checked) > 1
    keep = torch.stack([_usable(tensor, may_be_mask=several) for tensor in checked]).all(0)
    return map_leaves(lambda leaf: replace_rows(leaf, keep) if is_checked(leaf) else _own(leaf), inputs), keep


def _usable(leaf: Tensor, *, may_be_mask: bool) -> Tensor:
    """Mask of the usable rows. All rows of a mask that attention adds are: it holds zeros and very negative numbers."""
    usable = usable_rows(leaf, largest=LARGEST_INPUT)
    return usable | ((leaf == 0) | (leaf < -LARGEST_INPUT)).all() if may_be_mask else usable


def _own(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.layout == torch.strided else leaf


def _arguments(function: Callable[..., Any], inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    signature = _signature(function)
    if isinstance(inputs, Mapping):
        if signature is None or signature.parameters.keys() & inputs.keys() or _binds(signature, **inputs):
            return (), inputs
        return ((dict(inputs),), {}) if _binds(signature, inputs) else ((), inputs)  # a copy, because models write to it
    is_list = type(inputs) is list
    if signature is None or not (is_list or type(inputs) is tuple) or (is_list and _binds(signature, inputs)):
        return (inputs,), {}
    return (tuple(inputs) if _binds(signature, *inputs) else (inputs,)), {}


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    function = function.model if isinstance(function, FeatureTap) else function
    try:
        return inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except (TypeError, ValueError):  # a function without a readable signature, such as a scripted one
        return None


def _binds(signature: inspect.Signature, *positional: Any, **named: Any) -> bool:
    try:
        signature.bind(*positional, **named)
    except TypeError:
        return False
    return True


def _masks(value: Any) -> list[Tensor]:
    """The attention masks of a nested batch; one of an outer level hides those of inner ones."""
    if isinstance(value, Mapping):
        if isinstance(mask := value.get(MASK), Tensor):
            return [mask]
        value = list(value.values())
    return [mask for entry in value for mask in _masks(entry)] if isinstance(value, list | tuple) else []
