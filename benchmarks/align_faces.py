# /// script
# requires-python = ">=3.10"
# dependencies = ["av>=12", "facenet-pytorch==2.6.0", "rich>=13.7", "tyro>=0.9"]
#
# [tool.uv]
# # facenet-pytorch pins the torch and numpy of its day; it works with today's.
# override-dependencies = ["numpy>=1.26", "pillow>=10.2", "torch>=2.4", "torchvision>=0.19"]
# ///
"""Align the faces of a data set with MTCNN: a copy of its folder in which every image is a cropped, upright face.

    uv run benchmarks/align_faces.py IN OUT

`uv run` makes an environment of its own for this script from its first lines, with the weights in it: nothing else is fetched.
Images keep their relative paths, of a video the three middle frames are written as images, and label files (.txt, .xml, .csv)
are copied. Run it again to go on where it stopped. OUT/no-face.txt lists images without a face, OUT/broken.txt unreadable ones.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image, ImageOps
from purifybench.faces.media import IMAGE_SUFFIXES, MIDDLE, VIDEO_SUFFIXES, middle_frames
from rich.console import Console
from rich.progress import track

COPIED_SUFFIXES = (".txt", ".xml", ".csv")
#: Border on each side of the detected face, as a share of its longer side; hair needs some.
MARGIN = 0.25
#: Least probability of a face.
THRESHOLD = 0.9
NO_FACE = "no-face.txt"
BROKEN = "broken.txt"
#: Finds the face of an image and gives it cropped, or None.
Detector = Callable[[Image.Image], Image.Image | None]


@dataclass(frozen=True)
class Arguments:
    """Faces found, levelled, cropped and resized.

    Attributes:
        source: folder of images or videos, in any layout.
        target: folder to write, outside of the source.
        image_size: pixels of the square crops.
        retry: try images again in which no face was found.
    """

    source: Annotated[Path, tyro.conf.arg(metavar="IN")]
    target: Annotated[Path, tyro.conf.arg(metavar="OUT")]
    image_size: int = 224
    retry: bool = False


def main() -> None:
    """Align everything, report."""
    arguments = tyro.cli(Arguments, description=__doc__, config=(tyro.conf.PositionalRequiredArgs,))
    jobs = plan(arguments)
    try:
        align(jobs, arguments, mtcnn(arguments), Console())
    except ImportError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("\nstopped; run the same command again to go on") from None


def plan(arguments: Arguments) -> dict[Path, list[Path]]:
    """Say what is wrong with the arguments, or give what to write of every image and video below the source."""
    source = arguments.source.resolve()
    target = arguments.target.resolve()
    if not source.is_dir():
        raise SystemExit(f"IN: {source} is {'a file, not a folder' if source.exists() else 'not there'}")
    if target.is_relative_to(source):
        raise SystemExit(f"OUT: {target} must not be IN or inside of it")
    if target.exists() and not target.is_dir():
        raise SystemExit(f"OUT: {target} is a file, not a folder")
    if arguments.image_size < 16:
        raise SystemExit(f"--image-size: must be at least 16, got {arguments.image_size}")
    jobs = {}
    for path in _files(source):
        below = target / path.relative_to(source)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            jobs[path] = [below]
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            jobs[path] = [below.with_name(f"{path.stem}_{number}.png") for number in range(MIDDLE)]
    if not jobs:
        packed = sorted({path.suffix for path in _files(source) if path.suffix in (".parquet", ".zip", ".gz", ".tar", ".rar")})
        hint = f"; unpack its {', '.join(packed)} files first" if packed else ""
        raise SystemExit(f"IN: no image or video below {source}{hint}")
    return jobs


def align(jobs: dict[Path, list[Path]], arguments: Arguments, detect: Detector, console: Console) -> None:
    """Write a crop per image in which a face is found, copy label files, and say what was not.

    Args:
        jobs: what :func:`plan` gives.
        arguments: folders and options.
        detect: finds the face.
        console: for progress and the last lines.
    """
    source, target = arguments.source.resolve(), arguments.target.resolve()
    target.mkdir(parents=True, exist_ok=True)
    for path in _files(source):
        if path.suffix.lower() in COPIED_SUFFIXES:
            _write(target / path.relative_to(source), partial(shutil.copyfile, path))
    (target / BROKEN).unlink(missing_ok=True)
    if arguments.retry:
        (target / NO_FACE).unlink(missing_ok=True)
    faceless = target / NO_FACE
    without = set(faceless.read_text(encoding="utf-8").splitlines()) if faceless.exists() else set()
    done = broken = 0
    for given, targets in track(jobs.items(), description="aligning", console=console):
        waiting = [path for path in targets if not path.exists() and str(path.relative_to(target)) not in without]
        done += sum(path.exists() for path in targets)
        if not waiting:
            continue
        try:
            images = _read(given, len(targets))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            _append(target / BROKEN, f"{given.relative_to(source)}: {error}")
            broken += 1
            continue
        for path, turns in zip(targets, images, strict=True):
            if path not in waiting:
                continue
            face = next((found for image in turns if (found := detect(image)) is not None), None)
            if face is None:
                _append(target / NO_FACE, str(path.relative_to(target)))
                without.add(str(path.relative_to(target)))
                continue
            save_format = Image.registered_extensions()[path.suffix.lower()]
            _write(path, partial(face.save, format=save_format, quality=95))
            done += 1
    console.print(f"{done} faces in {target}")
    if without:
        console.print(f"{len(without)} images without a face: {target / NO_FACE} (--retry tries them again)")
    if broken:
        console.print(f"{broken} files that cannot be read: {target / BROKEN}")


def mtcnn(arguments: Arguments) -> Detector:
    """MTCNN with its published weights, on the GPU if there is one.

    Raises:
        SystemExit: without facenet-pytorch.
    """
    try:
        import torch
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise SystemExit(f"{error}: start this script by `uv run benchmarks/align_faces.py IN OUT` (pip install uv)") from error
    network = MTCNN(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def detect(image: Image.Image) -> Image.Image | None:
        if min(image.size) < network.min_face_size:
            return None
        boxes, probabilities, points = network.detect(image, landmarks=True)  # the largest first
        for box, probability, eyes in zip(boxes, probabilities, points, strict=True) if boxes is not None else ():
            if probability >= THRESHOLD:
                return crop(image, box.tolist(), eyes[:2].tolist(), margin=MARGIN, size=arguments.image_size)
        return None

    return detect


def crop(image: Image.Image, box: list[float], eyes: list[list[float]], *, margin: float, size: int) -> Image.Image:
    """A square around a face with both eyes on a level; what lies outside of the image is black.

    Args:
        image: where the face is.
        box: left, top, right and bottom, in pixels.
        eyes: x and y of the left eye in the image and of the right one.
        margin: border on each side, as a share of the box's longer side.
        size: pixels of the result.
    """
    left, top, right, bottom = box
    centre = (left + right) / 2, (top + bottom) / 2
    half = max(right - left, bottom - top) * (0.5 + margin)
    angle = math.degrees(math.atan2(eyes[1][1] - eyes[0][1], eyes[1][0] - eyes[0][0]))
    level = image.rotate(angle, resample=Image.Resampling.BICUBIC, center=centre)
    around = (round(centre[0] - half), round(centre[1] - half), round(centre[0] + half), round(centre[1] + half))
    return level.crop(around).resize((size, size), Image.Resampling.LANCZOS)


def _files(folder: Path) -> list[Path]:
    below = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _read(path: Path, count: int) -> list[Iterator[Image.Image]]:
    """For each target the images to look for a face in: a video's frames may lie on their side, as some of MMI's do."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return [_turned(frame) for frame in middle_frames(path, count)]
    with Image.open(path) as image:
        return [iter([ImageOps.exif_transpose(image).convert("RGB")])]


def _turned(image: Image.Image) -> Iterator[Image.Image]:
    yield image
    yield image.transpose(Image.Transpose.ROTATE_270)
    yield image.transpose(Image.Transpose.ROTATE_90)


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name first, so that it is whole wherever the run stops."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    write(unfinished)
    unfinished.replace(path)


if __name__ == "__main__":
    main()
