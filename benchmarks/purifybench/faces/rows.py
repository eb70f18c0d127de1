"""What every face set on disk comes to: rows of image, expression and person; and the error for a folder that is not one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .composition import EXPRESSIONS
from .media import IMAGE_SUFFIXES, MIDDLE, middle_frames

#: Spellings of the expressions in folder names.
SPELLINGS = {
    "angry": "anger",
    "disgusted": "disgust",
    "afraid": "fear",
    "fearful": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    **{name: name for name in EXPRESSIONS},
}


@dataclass(frozen=True)
class Row:
    """One face.

    Attributes:
        image: file of an image, or of a video.
        expression: one of `EXPRESSIONS`.
        subject: who it is; the same person has the same name throughout a set.
        frame: which of a video's middle frames; None for an image.
    """

    image: Path
    expression: str
    subject: str
    frame: int | None = None


def images_in(folder: Path) -> list[Path]:
    """The images right in a folder, by name, which is the order of a sequence's frames; none if there is no such folder."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))
    return sorted(found)


def first_folder(folder: Path, patterns: Sequence[str]) -> Path | None:
    """The first folder below that a pattern finds."""
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_dir()), None)


def wrong_folder(folder: Path, problem: str, expected: str, advice: str) -> ValueError:
    """The error for a folder that is not what was asked for: the problem, the layout, what is there, and what to do."""
    indented = expected.strip("\n")
    return ValueError(f"{folder}: {problem}\n\nexpected\n{indented}\n\nfound\n{inventory(folder)}\n\n{advice}")


def inventory(folder: Path, shown: int = 6) -> str:
    """The first entries of a folder, with how many there are in each."""
    if not folder.is_dir():
        return "  a file, not a folder" if folder.exists() else "  no such folder"
    entries = sorted(folder.iterdir())
    lines = [
        f"  {entry.name}/ ({sum(1 for _ in entry.iterdir())} entries)" if entry.is_dir() else f"  {entry.name}"
        for entry in entries[:shown]
    ]
    return "\n".join([*lines, *([f"  and {len(entries) - shown} more"] if len(entries) > shown else [])]) or "  nothing"


def load_images(rows: Iterable[Row], size: int) -> Tensor:
    """The images of rows.

    Returns:
        Bytes, shape ``(rows, 3, size, size)``: the central square, resized with antialiasing; grey images get three channels.

    Raises:
        ValueError: if a file cannot be read.
    """
    arrays: list[np.ndarray] = []
    video: tuple[Path, list[Image.Image]] | None = None  # the last one; rows of a video follow each other
    for row in rows:
        if row.frame is None:
            try:
                with Image.open(row.image) as image:
                    arrays.append(square(image, size))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise ValueError(f"{row.image} cannot be read as an image ({error}): copy it again, or take it away") from error
            continue
        if video is None or video[0] != row.image:
            video = row.image, middle_frames(row.image, MIDDLE)
        arrays.append(square(video[1][row.frame], size))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def square(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))
