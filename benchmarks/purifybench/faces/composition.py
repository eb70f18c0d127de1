"""What a cartoon face is made of: expression, hair colour and identity, per art style.

Expression and hair colour are chosen apart from each other and from the identity (hair shape, skin, clothes, background), so
the truth about what is irrelevant is known. An expression is a choice of eyebrows, eyes and mouth, or of one part that
holds all three.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
#: Whose art the styles are, and its terms.
CREDITS: Mapping[str, str] = {
    "adventurer": "Adventurer by Lisa Wischofsky, CC BY 4.0",
    "toon-head": "ToonHead by Johan Melin, CC BY 4.0 (eyebrows recoloured)",
    "avataaars": "Avataaars by Pablo Stanley, free for personal and commercial use",
    "micah": "Avatar Illustration System by Micah Lanier, CC BY 4.0",
    "open-peeps": "Open Peeps by Pablo Stanley, CC0 1.0",
}


@dataclass(frozen=True)
class Style:
    """One art style.

    Attributes:
        parts: for each expression the parts that make it, each with its variants; every combination is a sample.
        shapes: name of the part that carries the hair, and its variants whose colour follows the hair option.
        hair_option: name of the option for the hair colour.
        skins: name of the option for the skin colour, and its values.
        fixed: options that are always the same: no beards, glasses or jewellery.
        face: box of the face as shares of the canvas (left, top, right, bottom), in the place of an alignment.
    """

    parts: Mapping[str, Mapping[str, Sequence[str]]]
    shapes: tuple[str, Sequence[str]]
    hair_option: str
    skins: tuple[str, Sequence[str]]
    fixed: Mapping[str, int]
    face: tuple[float, float, float, float]


def _numbered(prefix: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{number:02d}" for number in numbers)


STYLES: Mapping[str, Style] = {
    "adventurer": Style(
        parts={
            "anger": {
                "eyebrows": _numbered("variant", 1, 2),
                "eyes": _numbered("variant", 5, 11, 12, 13),
                "mouth": _numbered("variant", 9, 11, 4),
            },
            "disgust": {
                "eyebrows": _numbered("variant", 3),
                "eyes": _numbered("variant", 14, 16, 17),
                "mouth": _numbered("variant", 12, 13),
            },
            "fear": {
                "eyebrows": _numbered("variant", 7, 13),
                "eyes": _numbered("variant", 8, 9, 10),
                "mouth": _numbered("variant", 14, 19, 24),
            },
            "happiness": {
                "eyebrows": _numbered("variant", 10, 12),
                "eyes": _numbered("variant", 19, 23, 24, 26),
                "mouth": _numbered("variant", 1, 5, 22, 25, 27),
            },
            "sadness": {
                "eyebrows": _numbered("variant", 7, 13),
                "eyes": _numbered("variant", 15, 16, 20),
                "mouth": _numbered("variant", 4),
            },
            "surprise": {
                "eyebrows": _numbered("variant", 6, 10),
                "eyes": _numbered("variant", 2, 3, 25),
                "mouth": _numbered("variant", 3, 7, 15, 18),
            },
        },
        shapes=("hair", _numbered("long", *range(1, 27)) + _numbered("short", *range(1, 19))),
        hair_option="hairColor",
        skins=("skinColor", ("#f2d3b1", "#ecad80", "#9e5622", "#763900")),
        fixed={"detailsProbability": 0, "earringsProbability": 0, "glassesProbability": 0},
        face=(0.06, 0.1, 0.94, 0.98),
    ),
    "toon-head": Style(
        parts={
            "anger": {"eyebrows": ("angry",), "eyes": ("happy", "wide"), "mouth": ("angry", "sad")},
            "disgust": {"eyebrows": ("angry",), "eyes": ("bow", "humble"), "mouth": ("sad", "angry")},
            "fear": {"eyebrows": ("sad",), "eyes": ("wide",), "mouth": ("agape", "angry")},
            "happiness": {"eyebrows": ("happy", "neutral"), "eyes": ("bow", "happy", "wink"), "mouth": ("laugh",)},
            "sadness": {"eyebrows": ("sad",), "eyes": ("happy", "humble"), "mouth": ("sad",)},
            "surprise": {"eyebrows": ("raised",), "eyes": ("wide", "happy"), "mouth": ("agape",)},
        },
        shapes=("hair", ("bun", "sideComed", "spiky", "undercut")),
        hair_option="hairColor",
        skins=("skinColor", ("#f1c3a5", "#c68e7a", "#b98e6a", "#a36b4f", "#5c3829")),
        fixed={"beardProbability": 0},
        face=(0.19, 0.1, 0.81, 0.72),
    ),
    "avataaars": Style(
        parts={
            "anger": {
                "eyebrows": ("angry", "angryNatural"),
                "eyes": ("default", "squint"),
                "mouth": ("serious", "grimace", "sad"),
            },
            "disgust": {
                "eyebrows": ("frownNatural", "angryNatural"),
                "eyes": ("squint", "closed", "xDizzy"),
                "mouth": ("vomit",),
            },
            "fear": {
                "eyebrows": ("sadConcerned", "sadConcernedNatural"),
                "eyes": ("surprised", "default"),
                "mouth": ("screamOpen", "concerned"),
            },
            "happiness": {
                "eyebrows": ("default", "defaultNatural"),
                "eyes": ("happy", "default", "wink"),
                "mouth": ("smile", "twinkle", "tongue"),
            },
            "sadness": {
                "eyebrows": ("sadConcerned", "sadConcernedNatural"),
                "eyes": ("cry", "closed", "default"),
                "mouth": ("sad",),
            },
            "surprise": {
                "eyebrows": ("raisedExcited", "raisedExcitedNatural"),
                "eyes": ("surprised", "default"),
                "mouth": ("disbelief", "default"),
            },
        },
        shapes=(
            "top",
            (
                "bigHair",
                "bob",
                "bun",
                "curly",
                "curvy",
                "dreads",
                "dreads01",
                "dreads02",
                "frizzle",
                "fro",
                "longButNotTooLong",
                "miaWallace",
                "shaggy",
                "shaggyMullet",
                "shavedSides",
                "shortCurly",
                "shortFlat",
                "shortRound",
                "shortWaved",
                "straight01",
                "straight02",
                "straightAndStrand",
                "theCaesar",
                "theCaesarAndSidePart",
            ),
        ),
        hair_option="hairColor",
        skins=("skinColor", ("#ffdbb4", "#edb98a", "#d08b5b", "#ae5d29", "#614335")),
        fixed={"accessoriesProbability": 0, "facialHairProbability": 0, "topProbability": 100},
        face=(0.18, 0.05, 0.82, 0.69),
    ),
    "micah": Style(
        parts={
            "anger": {"eyebrows": ("down", "eyelashesDown"), "eyes": ("eyes", "round"), "mouth": ("frown",)},
            "disgust": {
                "eyebrows": ("eyelashesDown", "down"),
                "eyes": ("smiling", "smilingShadow"),
                "mouth": ("pucker", "frown"),
            },
            "fear": {"eyebrows": ("up", "eyelashesUp"), "eyes": ("round",), "mouth": ("nervous",)},
            "happiness": {"eyebrows": ("up", "eyelashesUp"), "eyes": ("smiling", "eyes"), "mouth": ("laughing", "smile")},
            "sadness": {"eyebrows": ("up", "eyelashesUp"), "eyes": ("eyes", "eyesShadow"), "mouth": ("sad",)},
            "surprise": {"eyebrows": ("up", "eyelashesUp"), "eyes": ("round", "eyes"), "mouth": ("surprised",)},
        },
        shapes=("hair", ("dannyPhantom", "fonze", "full", "pixie", "turban")),
        hair_option="hairColor",
        skins=("baseColor", ("#f9c9b6", "#ac6651", "#77311d")),
        fixed={"earringsProbability": 0, "glassesProbability": 0, "facialHairProbability": 0},
        face=(0.14, 0.06, 0.9, 0.82),
    ),
    "open-peeps": Style(
        parts={
            "anger": {"expression": ("angryWithFang", "rage", "veryAngry")},
            "disgust": {"expression": ("concerned", "blank")},
            "fear": {"expression": ("fear", "hectic", "concernedFear")},
            "happiness": {"expression": ("smile", "smileBig", "smileLOL", "calm", "cute")},
            "sadness": {"expression": ("solemn", "tired")},
            "surprise": {"expression": ("awe", "explaining")},
        },
        shapes=("head", ("bangs", "cornrows", "grayBun", "grayMedium", "grayShort", "mediumBangs2", "mohawk", "short4")),
        hair_option="headContrastColor",
        skins=("skinColor", ("#ffdbb4", "#edb98a", "#d08b5b", "#ae5d29", "#694d3d")),
        fixed={"accessoriesProbability": 0, "facialHairProbability": 0, "maskProbability": 0},
        face=(0.12, 0.08, 0.92, 0.88),
    ),
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
