"""The autocast setting of the user's forward, to be replayed for auxiliary rows and switched off for the critic."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch


class AutocastState(NamedTuple):
    """The autocast setting of a forward pass."""

    device_type: str
    dtype: torch.dtype


def current_autocast(device_type: str) -> AutocastState | None:
    """The setting now in force for a device type; None where autocast is off."""
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return None
    return AutocastState(device_type, torch.get_autocast_dtype(device_type))


def replayed(state: AutocastState | None) -> AbstractContextManager[Any]:
    """Autocast as in ``state``, without its weight cache: the user's forward must not get casts that have no graph."""
    return nullcontext() if state is None else torch.autocast(state.device_type, state.dtype, cache_enabled=False)


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Autocast off, where the device knows it."""
    return torch.autocast(device_type, enabled=False) if torch.amp.is_autocast_available(device_type) else nullcontext()
