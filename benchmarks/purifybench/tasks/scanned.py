"""Pictures as four cameras take them: each has a colour cast, noise, blur and a tag of its own, and goes with a class."""

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from . import pictures
from ._types import Task
from .cells import Sizes, assigned_nuisances, task_of_rows

CAMERAS = ("camera 1", "camera 2", "camera 3", "camera 4")
#: What each camera does: factors of red, green and blue; deviation of its noise; whether it blurs; corner of its tag.
CASTS = torch.tensor([[1.0, 0.85, 0.8], [0.8, 1.0, 0.85], [0.8, 0.85, 1.0], [1.0, 1.0, 0.75]])
NOISE = (0.02, 0.10, 0.02, 0.06)
BLURS = (False, False, True, True)
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
TAG = 1 / 8
TAG_BRIGHTNESS = 0.9
SIZES = Sizes(rows=1500, auxiliary_rows=360, validation_rows=360, test_rows=576)


def build(
    *,
    seed: int,
    cache: Path,
    bias: float = 0.95,
    scanned: Path | None = None,
    scanned_class: str = "label",
    image_size: int = 32,
    sizes: Sizes = SIZES,
) -> Task:
    """Most training pictures of class i were taken by camera i, from the first again where there are more classes.

    Every picture is taken by one camera alone, drawn by seed.

    Args:
        seed: cameras, noise and splits.
        cache: folder for drawn faces.
        bias: share in [0, 1].
        scanned: parquet file of pictures, column ``image``; by default cartoon faces, whose class is the expression.
        scanned_class: column of their class.
        image_size: pixels.
        sizes: rows of the splits; smaller where a cell has too few.

    Raises:
        ValueError: if a column is missing, or there are too few rows.
    """
    images, labels, names = _source(cache, scanned, scanned_class, image_size)
    generator = torch.Generator().manual_seed(seed)
    cameras = assigned_nuisances(labels, len(CAMERAS), bias=bias, sizes=sizes, generator=generator)
    taken = taken_by(cameras, images, generator)
    named = {"names": names, "group_names": CAMERAS}
    return task_of_rows("scanned", taken.__getitem__, labels, cameras, **named, bias=bias, sizes=sizes, seed=seed)


def taken_by(cameras: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures as their cameras take them, bytes of the same shape.

    Args:
        cameras: of each picture, int64, shape ``(rows,)``.
        images: bytes, shape ``(rows, 3, height, width)``.
        generator: where the noise comes from.
    """
    found = images.clone()
    for camera in range(len(CAMERAS)):
        rows = cameras == camera
        pixels = images[rows] / 255.0 * CASTS[camera][:, None, None]
        if BLURS[camera]:
            pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        pixels = pixels + NOISE[camera] * torch.randn(pixels.shape, generator=generator)
        side = max(1, round(TAG * images.shape[-1]))
        low, right = CORNERS[camera]
        tall = slice(-side, None) if low else slice(side)
        wide = slice(-side, None) if right else slice(side)
        pixels[:, :, tall, wide] = TAG_BRIGHTNESS
        found[rows] = (pixels.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return found


@lru_cache(maxsize=1)
def _source(cache: Path, path: Path | None, column: str, size: int) -> tuple[Tensor, Tensor, list[str]]:
    """All pictures, their classes by number, and the names of these."""
    column = column if path else "expression"
    source = pictures._opened((str(path),), ("image", column)) if path else pictures._faces(cache, size)
    labels, names = pictures.coded(source, column, ())
    usable = (labels >= 0).nonzero()[:, 0]
    return pictures._images(source, usable, "image", size), labels[usable], names
