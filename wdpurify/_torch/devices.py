"""Copies tensors between devices without a wait of the host where possible."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return ``tensor`` on ``device``: asynchronously to a GPU, from pinned memory, and synchronously to the CPU."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, dtype, non_blocking=device.type != "cpu")


def is_free_to_read(tensor: Tensor) -> bool:
    """Whether the host can read a tensor without a wait for its device, and so may skip work that depends on it."""
    return tensor.device.type == "cpu"
