"""What a saved state must hold before any of it is taken over."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

#: Raised whenever the entries of a state change their meaning.
VERSION = 1
ENTRIES = ("version", "options", "critic", "optimizer", "game", "sampler", "forward")


def described(value: object) -> str:
    """An option as text that is the same in every process."""
    if isinstance(value, str | int | float):
        return str(value)
    return repr(value) if dataclasses.is_dataclass(value) else f"{type(value).__qualname__}"


def check_state(state: object, *, options: Mapping[str, str], critic: nn.Module) -> None:
    """Refuse a state that this regularizer cannot go on from.

    Args:
        state: what ``state_dict()`` returned, in this process or another.
        options: of this regularizer, described.
        critic: of this regularizer.

    Raises:
        ValueError: with what differs, and how to go on.
    """
    if not isinstance(state, Mapping) or (missing := [name for name in ENTRIES if name not in state]):
        lacks = f", it lacks {', '.join(map(repr, missing))}" if isinstance(state, Mapping) else f", got {type(state).__name__}"
        raise ValueError(f"`state` must be what `PurifyRegularizer.state_dict()` returned{lacks}")
    if state["version"] != VERSION:
        raise ValueError(
            f"`state` has version {state['version']}, this wdpurify reads {VERSION}: go on with the wdpurify that saved it"
        )
    for name, mine in options.items():
        saved = state["options"].get(name)
        if saved != mine:
            raise ValueError(f"`state` was saved with `{name}` {saved}, this regularizer has {mine}: make it with the same")
    shapes = {name: tuple(value.shape) for name, value in critic.state_dict().items()}
    saved_shapes = {name: tuple(value.shape) for name, value in state["critic"].items()}
    if saved_shapes != shapes:
        raise ValueError(f"`state` was saved with a critic of other widths: {saved_shapes}, this one has {shapes}")
    for entry in ("critic", "optimizer"):
        if not all(tensor.isfinite().all() for tensor in _floating(state[entry])):
            raise ValueError(f"`state` holds numbers that are not finite in its {entry}: go on from an earlier checkpoint")


def _floating(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if torch.is_floating_point(value) else []
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _floating(part)]
