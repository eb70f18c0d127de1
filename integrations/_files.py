"""Writes state files atomically, so that a killed process leaves no partial file."""

import os
from pathlib import Path
from typing import Any

import torch


def save_whole(state: Any, path: Path) -> None:
    """Write a temporary file next to ``path``, flush it to the disk, then rename it: ``path`` is never a partial file."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
