"""Data sets of cartoon faces: three small ones with expressions, in the roles of CK+, MMI and Oulu-CASIA, and auxiliary ones.

Each task set is a mixture of styles with its own hair shapes, skins, light, grain and colour, and with its own pairing of hair
colours and expressions. Auxiliary faces are labelled with hair colour (irrelevant) and smiling (relevant) alone.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from datasets import ClassLabel, Dataset
from joblib import Memory
from scipy.ndimage import gaussian_filter

from .composition import EXPRESSIONS, HAIR_COLOURS, STYLES, Face, draw_person
from .rendering import render_all

HAIR = tuple(HAIR_COLOURS)
#: Faces per split of a task set, and of an auxiliary set.
SPLITS: Mapping[str, int] = {"train": 480, "validation": 180, "test": 300}
AUXILIARY_ROWS = 1200
#: Faces per expression and style, where the style is the nuisance.
ROWS_PER_CELL = 160


@dataclass(frozen=True)
class Picture:
    """How a set's pictures are taken: grey or in colour, width of the blur (pixels of 64), noise and brightness (of 1)."""

    grey: bool = False
    blur: float = 0.0
    noise: float = 0.0
    gain: float = 1.0


@dataclass(frozen=True)
class FaceSet:
    """A mixture of styles (weights), with shares of their hair shapes and skins; `pairing` shifts which hair goes with what."""

    styles: Mapping[str, float]
    shapes: float
    skins: float
    picture: Picture
    pairing: int


#: The three task sets. Chosen on plain training alone: accuracy on another set is far above chance, far below one's own.
TASK_SETS: Mapping[str, FaceSet] = {
    "ck-like": FaceSet({"adventurer": 0.5, "toon-head": 0.3, "avataaars": 0.2}, 0.5, 0.75, Picture(grey=True), 0),
    "mmi-like": FaceSet({"adventurer": 0.2, "toon-head": 0.5, "avataaars": 0.3}, -0.5, -0.75, Picture(blur=0.6), 2),
    "oulu-like": FaceSet({"adventurer": 0.3, "toon-head": 0.2, "avataaars": 0.5}, 1.0, 1.0, Picture(noise=0.04, gain=0.7), 4),
}
#: Styles of auxiliary faces of another kind.
OTHER_STYLES = ("micah", "open-peeps")


def partner(face_set: FaceSet, expression: int) -> str:
    """The hair colour that goes with an expression in the biased faces of a set; unshifted, happy faces have black hair."""
    return HAIR[(expression - EXPRESSIONS.index("happiness") + face_set.pairing) % len(HAIR)]


def task_faces(name: str, *, seed: int, size: int, cache: Path) -> Dataset:
    """All faces of a task set; each person comes with the hair that its expression pairs with, and with hair at random.

    Returns:
        Rows of ``image``, ``split``, ``expression``, ``hair``, ``person``, ``paired`` (which of the two) and ``draw``, a number
        in [0, 1): the paired one is to be taken where it is below the bias.
    """
    rows: list[dict[str, object]] = []
    faces: list[Face] = []
    for face, row, draw in _people(name, seed):
        hair = partner(TASK_SETS[name], EXPRESSIONS.index(face.expression))
        faces += [replace(face, hair=hair), face]
        rows += [{**row, "paired": paired, "draw": draw} for paired in (True, False)]
    return drawn_set(faces, rows, [name] * len(faces), seed=seed, size=size, cache=cache)


def faces_in_every_hair(name: str, *, seed: int, size: int, cache: Path) -> Dataset:
    """The people of a task set's test split, each with every hair colour, in rows of ``image``, ``expression`` and ``hair``."""
    people = [(face, row) for face, row, _ in _people(name, seed) if row["split"] == "test"]
    faces = [replace(face, hair=hair) for face, _ in people for hair in HAIR]
    rows = [row for _, row in people for _ in HAIR]
    return drawn_set(faces, rows, [name] * len(faces), seed=seed, size=size, cache=cache)


def _people(name: str, seed: int) -> Iterator[tuple[Face, dict[str, object], float]]:
    """Everyone of a task set with hair at random, split and name, and a number in [0, 1) to compare with the bias."""
    rng = np.random.default_rng([seed, *name.encode()])
    for split, count in SPLITS.items():
        for number in range(count):
            drawn = _drawn(TASK_SETS[name], TASK_SETS[name].styles, rng)
            face = Face(expression=EXPRESSIONS[number % len(EXPRESSIONS)], hair=_any_hair(rng), **drawn)
            yield face, {"split": split, "person": f"{split}-{number}"}, rng.random()


def _drawn(face_set: FaceSet, styles: Mapping[str, float], rng: np.random.Generator) -> dict[str, Any]:
    style = rng.choice(list(styles), p=list(styles.values()))
    return draw_person(style, rng, shapes=face_set.shapes, skins=face_set.skins)


def _any_hair(rng: np.random.Generator) -> str:
    return HAIR[int(rng.integers(len(HAIR)))]


def auxiliary_faces(kind: str, *, seed: int, size: int, cache: Path) -> Dataset:
    """Other people, half of them smiling, with hair colours at random.

    Args:
        kind: a name of `TASK_SETS`, for faces of that mixture; ``"all"`` for a third of each; ``"other"`` for styles that no
            task set has, in the pictures of all three.
    """
    rng = np.random.default_rng([seed, *kind.encode(), 1])
    others = [name for name in EXPRESSIONS if name != "happiness"]
    faces = []
    names = []
    for number in range(AUXILIARY_ROWS):
        names.append(kind if kind in TASK_SETS else list(TASK_SETS)[int(rng.integers(len(TASK_SETS)))])
        face_set = TASK_SETS[names[-1]]
        styles = dict.fromkeys(OTHER_STYLES, 1 / len(OTHER_STYLES)) if kind == "other" else face_set.styles
        person = _drawn(face_set, styles, rng)
        expression = "happiness" if number % 2 else others[int(rng.integers(len(others)))]
        faces.append(Face(expression=expression, hair=_any_hair(rng), **person))
    rows = [{"split": "auxiliary", "person": str(number)} for number in range(len(faces))]
    return drawn_set(faces, rows, names, seed=seed, size=size, cache=cache)


def styled_faces(*, size: int, cache: Path, seed: int = 0) -> Dataset:
    """As many faces of each expression in each style, the nuisance here, with hair colour and all else at random.

    Args:
        size: pixels.
        cache: folder for drawn faces.
        seed: of the faces; which of them a benchmark uses for what is its own choice.

    Returns:
        Rows of ``image``, ``expression`` and ``style``, among others.
    """
    rng = np.random.default_rng([seed, *b"styles"])
    faces = [
        Face(expression=expression, hair=_any_hair(rng), **draw_person(style, rng))
        for style, expression, _ in itertools.product(STYLES, EXPRESSIONS, range(ROWS_PER_CELL))
    ]
    rows = [{"person": str(number)} for number in range(len(faces))]
    return drawn_set(faces, rows, ["styles"] * len(faces), seed=seed, size=size, cache=cache)


def drawn_set(
    faces: Sequence[Face], rows: Sequence[Mapping[str, object]], names: Sequence[str], *, seed: int, size: int, cache: Path
) -> Dataset:
    """The faces as a data set, from the cache or drawn into it.

    Args:
        faces: what to draw.
        rows: further columns of each.
        names: the task set as whose picture each is taken; other names are of plain pictures.
        seed: of the pictures' noise.
        size: pixels.
        cache: folder for drawn faces.
    """
    pictures = {name: TASK_SETS[name].picture if name in TASK_SETS else Picture() for name in dict.fromkeys(names)}
    return Memory(cache, verbose=0).cache(_drawn_set)(faces, rows, names, pictures, seed, size)


def _drawn_set(
    faces: Sequence[Face],
    rows: Sequence[Mapping[str, object]],
    names: Sequence[str],
    pictures: Mapping[str, Picture],
    seed: int,
    size: int,
) -> Dataset:
    images = render_all(faces, size)
    generator = np.random.default_rng(seed)
    for name, picture in pictures.items():
        mine = np.flatnonzero(np.array(names) == name)
        images[mine] = _taken(images[mine], picture, generator)
    columns = {
        "image": [PIL.Image.fromarray(image) for image in images],
        "expression": [EXPRESSIONS.index(face.expression) for face in faces],
        "hair": [face.hair for face in faces],
        "smiling": [face.expression == "happiness" for face in faces],
        "style": [face.style for face in faces],
        **{name: [row[name] for row in rows] for name in rows[0]},
    }
    return Dataset.from_dict(columns).cast_column("expression", ClassLabel(names=list(EXPRESSIONS)))


def _taken(images: np.ndarray, picture: Picture, generator: np.random.Generator) -> np.ndarray:
    values = images.astype(np.float32) / 255.0
    if picture.grey:
        values = np.broadcast_to((values @ np.array([0.299, 0.587, 0.114], np.float32))[..., None], values.shape)
    values = gaussian_filter(values, (0, picture.blur * images.shape[1] / 64, picture.blur * images.shape[1] / 64, 0))
    values = values * picture.gain + picture.noise * generator.standard_normal(values.shape, np.float32)
    return (values.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
