"""Draws cartoon faces, offline: DiceBear composes the vector image, resvg turns it into pixels."""

import functools
import io
import json
import multiprocessing
import os
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from .composition import STYLES, Face, options

#: The eyebrows of toon-head follow the hair colour, which would give it away where hair is hidden; they get this one.
EYEBROWS = "#2c1b18"


@functools.cache
def _definition(style: str) -> Any:
    from dicebear import Style

    definition = json.loads((files("dicebear_styles") / f"{style}.json").read_text("utf-8"))
    if style == "toon-head":
        definition["components"]["eyebrows"] = _without_hair_colour(definition["components"]["eyebrows"])
    return Style(definition)


def _without_hair_colour(node: Any) -> Any:
    if isinstance(node, dict):
        if node == {"type": "color", "name": "hair"}:
            return EYEBROWS
        return {name: _without_hair_colour(value) for name, value in node.items()}
    return [_without_hair_colour(value) for value in node] if isinstance(node, list) else node


def render(face: Face, size: int) -> np.ndarray:
    """A face as bytes of shape ``(size, size, 3)``, cut to the face's box."""
    import resvg_py
    from dicebear import Avatar

    left, top, right, bottom = STYLES[face.style].face
    width = round(size / (right - left))
    vector = Avatar(_definition(face.style), options(face)).to_string()
    pixels = resvg_py.svg_to_bytes(svg_string=vector, width=width, height=width, skip_system_fonts=True)
    picture = Image.open(io.BytesIO(pixels)).convert("RGB")
    box = tuple(share * width for share in (left, top, right, bottom))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))


def render_all(faces: Sequence[Face], size: int, *, workers: int | None = None) -> np.ndarray:
    """Many faces, on all cores and with a progress bar; bytes of shape ``(faces, size, size, 3)``."""
    workers = workers or os.cpu_count() or 1
    draw = functools.partial(render, size=size)
    if workers == 1 or len(faces) < 200:  # starting processes would take longer
        return np.stack([draw(face) for face in faces])
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        drawn = pool.imap(draw, faces, chunksize=50)
        return np.stack(list(track(drawn, total=len(faces), description="drawing faces")))
