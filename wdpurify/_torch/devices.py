"""Moving tensors to where they are needed without making the host wait."""

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """``tensor`` on ``device``. To a GPU the copy is queued from pinned memory; to the CPU it is waited for, as it must be."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, dtype, non_blocking=device.type != "cpu")


def is_free_to_read(tensor: Tensor) -> bool:
    """Whether the host can read a tensor without waiting for a device, and so may save itself work that depends on it."""
    return tensor.device.type == "cpu"
