"""The user's own copies of CK+, MMI and Oulu-CASIA, in the layouts they are given out in or as one folder per expression."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .composition import EXPRESSIONS
from .mmi import LAYOUT as MMI_LAYOUT
from .mmi import read_mmi
from .rows import PEAK, SPELLINGS, Row, check_sequences, first_folder, images_in, wrong_folder

#: Codes of CK+'s emotion files; 0 (neutral) and 2 (contempt) are no shared expressions.
CK_CODES = {1: "anger", 3: "disgust", 4: "fear", 5: "happiness", 6: "sadness", 7: "surprise"}
#: Folders that may stand between the given folder and those of the expressions.
LEVELS = ("train", "validation", "valid", "val", "test")
CK_LAYOUT = """
  cohn-kanade-images/S005/001/S005_001_00000011.png
  Emotion/S005/001/S005_001_00000011_emotion.txt     one number, such as 3.0
"""
OULU_LAYOUT = """
  OriginalImg/VL/Strong/P012/Anger/000.jpeg
"""
PLAIN_LAYOUT = """
  happiness/S005_001_00000011.png      one folder per expression; the name starts with the subject, then _ or -
"""
CK_IMAGES = ("cohn-kanade-images", "*/cohn-kanade-images")
CK_EMOTIONS = ("Emotion", "*/Emotion")
OULU_ROOTS = ("OriginalImg/VL/Strong", "*/VL/Strong", "*/VL_*/Strong", "VL/Strong", "VL_*/Strong", "Strong")


def read_set(name: str, folder: Path) -> list[Row]:
    """The faces of a set, in its own layout or as one folder per expression.

    Args:
        name: ``"ck+"``, ``"mmi"`` or ``"oulu"``.
        folder: the user's copy.

    Returns:
        Rows of the six shared expressions, in an order that depends on the files alone.

    Raises:
        ValueError: if the folder holds no such set, half of one, fewer than six expressions or fewer than two people.
    """
    layout = LAYOUTS[name]
    expected = f"{layout.tree.rstrip()}\nor{PLAIN_LAYOUT}"
    if not folder.is_dir():
        raise wrong_folder(folder, f"no folder for {name}", expected, "Give the folder that holds your copy.")
    rows: list[Row] = []
    if _expression_folders(folder):
        rows = read_plain(folder)
    elif any(any(folder.glob(mark)) for mark in layout.marks):
        rows = layout.read(folder)
    if not rows:
        raise wrong_folder(folder, f"no image of {name} found", expected, "Give the folder that holds this.")
    absent = [expression for expression in EXPRESSIONS if expression not in {row.expression for row in rows}]
    if absent:
        problem = f"{len(rows)} images, but none of {', '.join(absent)}"
        raise wrong_folder(folder, problem, expected, "All six expressions are needed: complete the copy.")
    subjects = {row.subject for row in rows}
    if len(subjects) < 2:
        problem = f"all {len(rows)} images are of one subject, {min(subjects)!r}"
        raise wrong_folder(folder, problem, expected, "Splits are by subject: complete the copy.")
    return rows


def read_plain(folder: Path) -> list[Row]:
    """One folder per expression, in any usual spelling, right in the folder or below train and test; others are ignored.

    The subject is the file name up to the first ``_`` or ``-``. Every image counts: there are no sequences to take peaks of.

    Raises:
        ValueError: if a name says no subject.
    """
    rows = [
        Row(path, SPELLINGS[below.name.lower()], re.split("[_-]", path.stem)[0])
        for below in _expression_folders(folder)
        for path in images_in(below)
    ]
    nameless = [row for row in rows if not re.match("[^_-]+[_-]", row.image.stem)]
    if nameless:
        problem = f"{len(nameless)} of {len(rows)} file names do not start with a subject, such as {nameless[0].image.name}"
        raise wrong_folder(
            folder, problem, PLAIN_LAYOUT, "Splits are by subject: put it in front of the names, as in S005_017.png."
        )
    return rows


def read_ck_plus(folder: Path) -> list[Row]:
    """The last three frames, the peak, of every sequence whose emotion file names one of the six expressions.

    CK+ has emotion files for about half of its sequences; the others are left out.

    Raises:
        ValueError: if images or emotion files are missing, or an emotion file holds no number.
    """
    images = first_folder(folder, CK_IMAGES)
    emotions = first_folder(folder, CK_EMOTIONS)
    if images is None:
        advice = "Unpack extended-cohn-kanade-images.zip beside the emotion files."
        raise wrong_folder(folder, "emotion files, but no folder cohn-kanade-images", CK_LAYOUT, advice)
    files = sorted(emotions.glob("*/*/*_emotion.txt")) if emotions else []
    files = [path for path in files if not path.name.startswith(".")]
    if not files:
        sequences = sum(1 for _ in images.glob("*/*/"))
        problem = f"{sequences} sequences of images, but no emotion file"
        raise wrong_folder(folder, problem, CK_LAYOUT, "Unpack Emotion_labels.zip beside the images.")
    rows: list[Row] = []
    missing: list[str] = []
    for path in files:
        subject, sequence = path.parts[-3:-1]
        frames = images_in(images / subject / sequence)
        if not frames:
            missing.append(f"{subject}/{sequence}")
        expression = CK_CODES.get(_ck_code(path))
        if expression is not None:
            rows += [Row(frame, expression, subject) for frame in frames[-PEAK:]]
    check_sequences(folder, missing, len(files), CK_LAYOUT)
    return rows


def _ck_code(path: Path) -> int:
    text = path.read_text(errors="replace").strip()
    try:
        code = int(float(text))
    except ValueError:
        raise ValueError(f"{path} must hold one number from 0 to 7, got {text[:40]!r}: copy it again") from None
    if not 0 <= code <= 7:
        raise ValueError(f"{path} must hold one number from 0 to 7, got {text[:40]!r}: copy it again")
    return code


def read_oulu(folder: Path) -> list[Row]:
    """The last three frames, the peak, of every sequence in visible, strong light.

    Raises:
        ValueError: if more than a tenth of the people's sequences are missing.
    """
    root = first_folder(folder, OULU_ROOTS) or folder
    rows: list[Row] = []
    missing: list[str] = []
    people = sorted(path for path in root.glob("P[0-9]*") if path.is_dir())
    for person in people:
        sequences = {SPELLINGS.get(path.name.lower()): path for path in person.iterdir() if path.is_dir()}
        for expression in EXPRESSIONS:
            frames = images_in(sequences[expression]) if expression in sequences else []
            rows += [Row(frame, expression, person.name) for frame in frames[-PEAK:]]
            missing += [] if frames else [f"{person.name}/{expression}"]
    if rows:
        check_sequences(folder, missing, len(people) * len(EXPRESSIONS), OULU_LAYOUT)
    return rows


def _expression_folders(folder: Path) -> list[Path]:
    parents = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() in LEVELS)]
    below = [path for parent in parents for path in sorted(parent.iterdir()) if path.is_dir()]
    return [path for path in below if path.name.lower() in SPELLINGS]


@dataclass(frozen=True)
class Layout:
    """How a set is given out.

    Attributes:
        read: gives its rows.
        tree: what it looks like, for messages.
        marks: patterns of paths; where one of them is found, the folder is meant to be the set, complete or not.
    """

    read: Callable[[Path], list[Row]]
    tree: str
    marks: tuple[str, ...]


#: The sets by name.
LAYOUTS: Mapping[str, Layout] = {
    "ck+": Layout(read_ck_plus, CK_LAYOUT, (*CK_IMAGES, *CK_EMOTIONS)),
    "mmi": Layout(read_mmi, MMI_LAYOUT, ("Sessions", "*/*.xml")),
    "oulu": Layout(read_oulu, OULU_LAYOUT, (*OULU_ROOTS, "P[0-9]*")),
}
