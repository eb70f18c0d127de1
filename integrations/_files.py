"""Files of states: whole or absent, whatever kills the process while they are written."""

import os
from pathlib import Path
from typing import Any

import torch


def save_whole(state: Any, path: Path) -> None:
    """Write to a temporary name beside ``path``, force it to the disk, then rename: a file of that name is never cut short."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
