"""The user's own copies of CK+, MMI and Oulu-CASIA, in the layouts they are given out in or as one folder per expression.

Each layout says which labelled sequences a folder holds, and one reader takes of each the frames that count.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from .composition import EXPRESSIONS
from .media import MIDDLE, VIDEO_SUFFIXES
from .rows import SPELLINGS, Row, first_folder, images_in, wrong_folder

#: Frames taken of a sequence.
PEAK = 3
#: Share of the labelled sequences that may lack images, as after alignment; more is a half-copied set.
TOLERATED = 0.1
#: Codes of CK+'s emotion files; 0 (neutral) and 2 (contempt) are no shared expressions.
CK_CODES = {1: "anger", 3: "disgust", 4: "fear", 5: "happiness", 6: "sadness", 7: "surprise"}
CK_IMAGES = ("cohn-kanade-images", "*/cohn-kanade-images")
CK_EMOTIONS = ("Emotion", "*/Emotion")
#: Codes of MMI's tag "Emotion"; those above six are other states.
MMI_CODES = {1: "anger", 2: "disgust", 3: "fear", 4: "happiness", 5: "sadness", 6: "surprise"}
#: Views that show the whole face: from the front, and both at once. 1 is the profile.
MMI_VIEWS = (None, "0", "2")
OULU_ROOTS = ("OriginalImg/VL/Strong", "*/VL/Strong", "*/VL_*/Strong", "VL/Strong", "VL_*/Strong", "Strong")
#: Folders that may stand between the given folder and those of the expressions.
LEVELS = ("train", "validation", "valid", "val", "test")
PLAIN_LAYOUT = """
  happiness/S005_001_00000011.png      one folder per expression; the name starts with the subject, then _ or -
"""


@dataclass(frozen=True)
class Labelled:
    """A sequence with a label.

    Attributes:
        name: for messages.
        expression: one of `EXPRESSIONS`, or None for another.
        subject: who it is.
        frames: images in their order; of a video one row per middle frame. Empty where they are missing.
    """

    name: str
    expression: str | None
    subject: str
    frames: Sequence[tuple[Path, int | None]]


@dataclass(frozen=True)
class Layout:
    """How a set is given out.

    Attributes:
        sequences: finds the labelled ones.
        tree: what it looks like, for messages.
        marks: patterns of paths; where one of them is found, the folder is meant to be the set, complete or not.
        rises_and_falls: the peak is in the middle of a sequence, not at its end.
    """

    sequences: Callable[[Path, str], Iterator[Labelled]]
    tree: str
    marks: tuple[str, ...]
    rises_and_falls: bool = False


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
        rows = _read_sequences(layout, folder)
    if not rows:
        raise wrong_folder(folder, f"no image of {name} found", expected, "Give the folder that holds this.")
    found = {row.expression for row in rows}
    if absent := [expression for expression in EXPRESSIONS if expression not in found]:
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
    if nameless := [row.image.name for row in rows if not re.match("[^_-]+[_-]", row.image.stem)]:
        problem = f"{len(nameless)} of {len(rows)} file names do not start with a subject, such as {nameless[0]}"
        advice = "Splits are by subject: put it in front of the names, as in S005_017.png."
        raise wrong_folder(folder, problem, PLAIN_LAYOUT, advice)
    return rows


def _expression_folders(folder: Path) -> list[Path]:
    parents = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() in LEVELS)]
    below = [path for parent in parents for path in sorted(parent.iterdir()) if path.is_dir()]
    return [path for path in below if path.name.lower() in SPELLINGS]


def _read_sequences(layout: Layout, folder: Path) -> list[Row]:
    """The frames around the peak of every sequence with one of the six expressions.

    Raises:
        ValueError: if more than a tenth of the labelled sequences have no images; a few are left out with a warning.
    """
    rows: list[Row] = []
    found = list(layout.sequences(folder, layout.tree))
    for each in found:
        start = max(0, len(each.frames) - PEAK) // (2 if layout.rises_and_falls else 1)
        peak = each.frames[start : start + PEAK] if each.expression else ()
        rows += [Row(path, str(each.expression), each.subject, frame) for path, frame in peak]
    if found and (missing := [each.name for each in found if not each.frames]):
        said = f"{len(missing)} of {len(found)} labelled sequences have no image, such as {', '.join(missing[:3])}"
        if len(missing) > TOLERATED * len(found):
            raise wrong_folder(folder, said, layout.tree, "Copy the missing folders.")
        warnings.warn(f"{folder}: {said}; they are left out", stacklevel=2)
    return rows


def _images(folder: Path) -> list[tuple[Path, int | None]]:
    return [(path, None) for path in images_in(folder)]


def ck_plus(folder: Path, tree: str) -> Iterator[Labelled]:
    """Every sequence with an emotion file, which about half of CK+'s have; the others are left out.

    Raises:
        ValueError: if images or emotion files are missing, or an emotion file holds no number.
    """
    images = first_folder(folder, CK_IMAGES)
    emotions = first_folder(folder, CK_EMOTIONS)
    if images is None:
        advice = "Unpack extended-cohn-kanade-images.zip beside the emotion files."
        raise wrong_folder(folder, "emotion files, but no folder cohn-kanade-images", tree, advice)
    files = sorted(emotions.glob("*/*/[!.]*_emotion.txt")) if emotions else []
    if not files:
        problem = f"{sum(1 for _ in images.glob('*/*/'))} sequences of images, but no emotion file"
        raise wrong_folder(folder, problem, tree, "Unpack Emotion_labels.zip beside the images.")
    for path in files:
        subject, sequence = path.parts[-3:-1]
        text = path.read_text(errors="replace", encoding="utf-8").strip()
        if not re.fullmatch(r"[0-7](\.0*)?(e\+00)?", text):
            raise ValueError(f"{path} must hold one number from 0 to 7, got {text[:40]!r}: copy it again")
        yield Labelled(f"{subject}/{sequence}", CK_CODES.get(int(text[0])), subject, _images(images / subject / sequence))


def oulu(folder: Path, tree: str) -> Iterator[Labelled]:
    """Every sequence in visible, strong light; each person has one per expression."""
    root = first_folder(folder, OULU_ROOTS) or folder
    for person in sorted(path for path in root.glob("P[0-9]*") if path.is_dir()):
        sequences = {SPELLINGS.get(path.name.lower()): path for path in person.iterdir() if path.is_dir()}
        for expression in EXPRESSIONS:
            frames = _images(sequences.get(expression, person / expression))
            yield Labelled(f"{person.name}/{expression}", expression, person.name, frames)


def mmi(folder: Path, tree: str) -> Iterator[Labelled]:
    """Every session with one of the six expressions, but for profiles: short videos from rest to a peak and back.

    Of a session's XML files are read: the tag ``Metatag`` with ``Name="Emotion"`` for the expression, and the attribute
    ``view`` of ``track``. The subject is the file name up to the hyphen (``S001`` of ``S001-002``); where no file is called so,
    the attribute ``ID`` of an element ``Subject``. Sessions without an emotion (action units alone) are left out, as is common.

    Raises:
        ValueError: if none has an emotion, an XML file is broken, or a subject cannot be told.
    """
    root = folder / "Sessions" if (folder / "Sessions").is_dir() else folder
    sessions = sorted(path for path in root.iterdir() if path.is_dir())
    labelled = False
    for session in sessions:
        elements = [element for path in sorted(session.glob("[!.]*.xml")) for element in _elements(path)]
        tags = (element for element in elements if element.tag.lower() == "metatag" and element.get("Name") == "Emotion")
        code = next((element.get("Value", "").strip() for element in tags), "")
        expression = MMI_CODES.get(int(code)) if code.isdecimal() else None
        view = next((element.get("view") for element in elements if element.tag.lower() == "track"), None)
        if expression is None or view not in MMI_VIEWS:
            continue
        labelled = True
        frames = _images(session)
        if not frames:
            videos = sorted(path for path in session.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
            frames = [(video, number) for video in videos[:1] for number in range(MIDDLE)]
        yield Labelled(session.name, expression, _subject(session, elements) if frames else "", frames)
    if not labelled:
        problem = f"none of {len(sessions)} sessions has an XML file with an emotion of 1 to 6"
        raise wrong_folder(folder, problem, tree, "Copy the XML files that were downloaded beside the videos.")


def _elements(path: Path) -> Iterator[ElementTree.Element]:
    try:
        return ElementTree.parse(path).getroot().iter()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is not XML ({error}): copy it again") from error


def _subject(session: Path, elements: Sequence[ElementTree.Element]) -> str:
    names = (found[1] for path in sorted(session.iterdir()) if (found := re.match(r"(S\d+)-\d", path.name)))
    subjects = (element.attrib for element in elements if element.tag.lower() == "subject")
    identities = (value for given in subjects for name, value in given.items() if name.lower() == "id" and value)
    if subject := next(names, None) or next(identities, None):
        return subject
    raise ValueError(
        f"{session}: no file is called like S001-002.avi and no XML element `Subject` has an ID: whose face is it?"
    )


CK_TREE = """
  cohn-kanade-images/S005/001/S005_001_00000011.png
  Emotion/S005/001/S005_001_00000011_emotion.txt     one number, such as 3.0
"""
MMI_TREE = """
  Sessions/1/S001-002.avi       a video, or its frames as images
  Sessions/1/S001-002.xml       <Metatag Name="Emotion" Value="4"/>
  Sessions/1/session.xml        <track view="0"/>; without it the view counts as frontal
"""
OULU_TREE = """
  OriginalImg/VL/Strong/P012/Anger/000.jpeg
"""
#: The sets by name.
LAYOUTS: Mapping[str, Layout] = {
    "ck+": Layout(ck_plus, CK_TREE, (*CK_IMAGES, *CK_EMOTIONS)),
    "mmi": Layout(mmi, MMI_TREE, ("Sessions", "*/*.xml"), rises_and_falls=True),
    "oulu": Layout(oulu, OULU_TREE, (*OULU_ROOTS, "P[0-9]*")),
}
