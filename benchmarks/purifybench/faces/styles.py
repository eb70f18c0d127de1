"""Cartoon faces of several art styles, every expression in every style: the style is a nuisance of the expression."""

from pathlib import Path

import numpy as np
from datasets import Dataset

from .composition import EXPRESSIONS, STYLES, Face, draw_person
from .sets import HAIR, Picture, drawn_set

#: Faces per expression and style.
ROWS_PER_CELL = 160


def styled_faces(*, size: int, cache: Path, seed: int = 0) -> Dataset:
    """As many faces of each expression in each style, hair colour and all else at random.

    Args:
        size: pixels.
        cache: folder for drawn faces.
        seed: of the faces; which of them a benchmark uses for what is its own choice.

    Returns:
        Rows of ``image``, ``expression`` and ``style``, among others.
    """
    rng = np.random.default_rng([seed, *b"styles"])
    faces = []
    for style in STYLES:
        for expression in EXPRESSIONS:
            for _ in range(ROWS_PER_CELL):
                hair = HAIR[int(rng.integers(len(HAIR)))]
                faces.append(Face(expression=expression, hair=hair, **draw_person(style, rng)))
    rows: list[dict[str, object]] = [{"person": str(number)} for number in range(len(faces))]
    return drawn_set(faces, rows, {"styles": Picture()}, ["styles"] * len(faces), seed=seed, size=size, cache=cache)
