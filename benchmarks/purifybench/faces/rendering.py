"""Draws cartoon faces, offline: DiceBear composes the vector image, resvg turns it into pixels."""

import functools
import io
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from PIL import Image
from rich.progress import track

from .composition import STYLES, Face, options

#: The eyebrows of toon-head follow the hair colour, which would give it away where hair is hidden; they get this one.
EYEBROWS = "#2c1b18"
HAIR_COLOUR = {"type": "color", "name": "hair"}


@functools.cache
def _definition(style: str) -> Any:
    from dicebear import Style

    definition = json.loads((files("dicebear_styles") / f"{style}.json").read_text("utf-8"))
    if style == "toon-head":
        eyebrows = json.dumps(definition["components"]["eyebrows"])
        definition["components"]["eyebrows"] = json.loads(eyebrows.replace(json.dumps(HAIR_COLOUR), json.dumps(EYEBROWS)))
    return Style(definition)


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


def render_all(faces: Sequence[Face], size: int) -> np.ndarray:
    """Many faces, on all cores and with a progress bar; bytes of shape ``(faces, size, size, 3)``."""
    workers = 1 if len(faces) < 200 else -1  # starting processes would take longer
    drawn = Parallel(workers, return_as="generator", batch_size=50)(delayed(render)(face, size) for face in faces)
    return np.stack(list(track(drawn, total=len(faces), description="drawing faces", disable=workers == 1)))
