"""The MMI facial expression database: short videos from rest to a peak and back, one folder per session."""

import re
from pathlib import Path
from xml.etree import ElementTree

from .media import MIDDLE, VIDEO_SUFFIXES
from .rows import PEAK, Row, check_sequences, images_in, wrong_folder

#: Codes of the tag "Emotion"; those above six are other states.
CODES = {1: "anger", 2: "disgust", 3: "fear", 4: "happiness", 5: "sadness", 6: "surprise"}
#: Views that show the whole face: from the front, and both at once. 1 is the profile.
VIEWS = ("0", "2")
LAYOUT = """
  Sessions/1/S001-002.avi       a video, or its frames as images
  Sessions/1/S001-002.xml       <Metatag Name="Emotion" Value="4"/>
  Sessions/1/session.xml        <track view="0"/>; without it the view counts as frontal
"""


def read_mmi(folder: Path) -> list[Row]:
    """The three middle frames of every session with one of the six expressions.

    Of a session's XML files are read: the tag ``Metatag`` with ``Name="Emotion"`` for the expression, and the attribute
    ``view`` of ``track``, as profiles are left out. The subject is the file name up to the hyphen (``S001`` of ``S001-002``);
    where no file is called so, the attribute ``ID`` of an element ``Subject``. Sessions without an emotion (action units
    alone) are left out, as is common.

    Args:
        folder: what holds ``Sessions``, or that folder.

    Raises:
        ValueError: if sessions lack videos, none has an emotion, an XML file is broken, or a subject cannot be told.
    """
    root = folder / "Sessions" if (folder / "Sessions").is_dir() else folder
    sessions = sorted(path for path in root.iterdir() if path.is_dir())
    rows: list[Row] = []
    missing: list[str] = []
    labelled = 0
    for session in sessions:
        elements = _elements(session)
        expression = _expression(elements)
        views = [element.get("view") for element in elements if element.tag.lower() == "track"]
        if expression is None or (views and views[0] is not None and views[0] not in VIEWS):
            continue
        labelled += 1
        frames = images_in(session)
        videos = sorted(path for path in session.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
        if not frames and not videos:
            missing.append(session.name)
            continue
        subject = _subject(session, elements)
        if frames:
            start = max(0, (len(frames) - PEAK) // 2)
            rows += [Row(path, expression, subject) for path in frames[start : start + PEAK]]
        else:
            rows += [Row(videos[0], expression, subject, frame) for frame in range(MIDDLE)]
    if not labelled:
        problem = f"none of {len(sessions)} sessions has an XML file with an emotion of 1 to 6"
        raise wrong_folder(folder, problem, LAYOUT, "Copy the XML files that were downloaded beside the videos.")
    check_sequences(folder, missing, labelled, LAYOUT)
    return rows


def _elements(session: Path) -> list[ElementTree.Element]:
    found: list[ElementTree.Element] = []
    for path in sorted(session.glob("*.xml")):
        if path.name.startswith("."):
            continue
        try:
            found += ElementTree.parse(path).getroot().iter()
        except ElementTree.ParseError as error:
            raise ValueError(f"{path} is not XML ({error}): copy it again") from error
    return found


def _expression(elements: list[ElementTree.Element]) -> str | None:
    for element in elements:
        if element.tag.lower() == "metatag" and element.get("Name") == "Emotion":
            value = (element.get("Value") or "").strip()
            return CODES.get(int(value)) if value.isdecimal() else None
    return None


def _subject(session: Path, elements: list[ElementTree.Element]) -> str:
    for path in sorted(session.iterdir()):
        if found := re.match(r"(S\d+)-\d", path.name):
            return found[1]
    for element in elements:
        identity = {name.lower(): value for name, value in element.attrib.items()}.get("id")
        if element.tag.lower() == "subject" and identity:
            return identity
    raise ValueError(
        f"{session}: no file is called like S001-002.avi and no XML element `Subject` has an ID: whose face is it?"
    )
