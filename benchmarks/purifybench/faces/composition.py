"""What a cartoon face is made of: expression, hair colour and identity, per art style.

Expression and hair colour are chosen apart from each other and from the identity (hair shape, skin, clothes, background), so
the truth about what is irrelevant is known. An expression is a choice of eyebrows, eyes and mouth, or of one part that
holds all three.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: The six expressions that all styles and the paper's data sets share. Label i is the i-th.
EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
#: Hair colours by name; the first four are CelebA's.
HAIR_COLOURS: Mapping[str, str] = {
    "black": "#1c1512",
    "brown": "#6a4423",
    "blond": "#e3c16f",
    "gray": "#9e9e9e",
    "red": "#b5432a",
    "white": "#f2f0ea",
}


@dataclass(frozen=True)
class Style:
    """One art style.

    Attributes:
        credit: whose art it is, and its terms.
        parts: for each expression the parts that make it, each with its variants; every combination is a sample.
        shapes: name of the part that carries the hair, and its variants whose colour follows the hair option.
        hair_option: name of the option for the hair colour.
        skins: name of the option for the skin colour, and its values.
        fixed: options that are always the same: no beards, glasses or jewellery.
        face: box of the face as shares of the canvas (left, top, right, bottom), in the place of an alignment.
    """

    credit: str
    parts: Mapping[str, Mapping[str, Sequence[str]]]
    shapes: tuple[str, Sequence[str]]
    hair_option: str
    skins: tuple[str, Sequence[str]]
    fixed: Mapping[str, int]
    face: tuple[float, float, float, float]


#: The styles by name, as the file beside this one describes them.
STYLES: Mapping[str, Style] = {
    name: Style(**fields)
    for name, fields in json.loads(Path(__file__).with_name("art_styles.json").read_text(encoding="utf-8")).items()
}


@dataclass(frozen=True)
class Face:
    """One face, by choices: everything but `hair` and `expression` is the person and the picture."""

    style: str
    expression: str
    hair: str
    shape: int
    skin: int
    background: tuple[int, int, int]
    clothes: int
    choice: int


def draw_person(style: str, rng: np.random.Generator, *, shapes: float = 1.0, skins: float = 1.0) -> dict[str, object]:
    """Identity and picture of a face at random, with the same number of draws whatever comes.

    Args:
        style: a name of `STYLES`.
        rng: where the draws come from.
        shapes, skins: from which share of the hair shapes and skins to draw: in (0, 1] the first ones, in [-1, 0) the last.
    """
    drawn = rng.random(8)
    return {
        "style": style,
        "shape": _pick(len(STYLES[style].shapes[1]), shapes, drawn[0]),
        "skin": _pick(len(STYLES[style].skins[1]), skins, drawn[1]),
        "background": tuple(int(150 + 105 * value) for value in drawn[2:5]),
        "clothes": int(drawn[5] * (1 << 31)),
        "choice": int(drawn[6] * (1 << 20)),
    }


def _pick(count: int, share: float, drawn: float) -> int:
    kept = max(1, round(abs(share) * count))
    place = int(drawn * kept)
    return place if share > 0 else count - 1 - place


def options(face: Face) -> dict[str, object]:
    """The style's options for a face, as DiceBear names them."""
    style = STYLES[face.style]
    parts = style.parts[face.expression]
    combinations = list(itertools.product(*parts.values()))
    chosen = combinations[face.choice % len(combinations)]
    shape, shapes = style.shapes
    skin, skins = style.skins
    return {
        **style.fixed,
        **{f"{part}Variant": variant for part, variant in zip(parts, chosen, strict=True)},
        f"{shape}Variant": shapes[face.shape],
        skin: skins[face.skin],
        style.hair_option: HAIR_COLOURS[face.hair],
        "backgroundColor": "#{:02x}{:02x}{:02x}".format(*face.background),
        "seed": str(face.clothes),
    }
