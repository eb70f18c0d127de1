"""Replays the autocast setting of the user's forward for auxiliary rows, and switches autocast off for the critic."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

#: Whether a device type has autocast. A table, because torch before 2.7 cannot compile the question.
AVAILABLE = {kind: torch.amp.is_autocast_available(kind) for kind in ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "meta")}


class AutocastState(NamedTuple):
    """The autocast setting of a forward pass."""

    device_type: str
    dtype: torch.dtype


def current_autocast(device_type: str) -> AutocastState | None:
    """Return the present autocast setting of a device type; None if autocast is off."""
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return None
    return AutocastState(device_type, torch.get_autocast_dtype(device_type))


def replay_autocast(state: AutocastState | None) -> AbstractContextManager[Any]:
    """Enter autocast as in ``state``, without its weight cache: a later forward would reuse cached casts without a graph."""
    return nullcontext() if state is None else torch.autocast(state.device_type, state.dtype, cache_enabled=False)


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Switch autocast off, on devices that support it."""
    return torch.autocast(device_type, enabled=False) if AVAILABLE.get(device_type, False) else nullcontext()
