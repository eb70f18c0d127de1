"""Aligning faces: what is written where, what is copied, what is said; the detector is a stand-in but in the last tests."""

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import align_faces
import numpy as np
import pytest
from align_faces import Arguments, align, crop, plan
from PIL import Image
from purifybench.faces import media
from rich.console import Console


@pytest.fixture
def folders(tmp_path):
    """A source of four images in two folders, one without a face (dark) and one broken, and of files that are no images."""
    source = tmp_path / "in"
    for name, value in (("a/1.png", 200), ("a/2.jpg", 201), ("b/c/1.PNG", 0), (".hidden/1.png", 202)):
        _image(source / name, value)
    (source / "b/broken.png").write_bytes((source / "a/1.png").read_bytes()[:50])
    (source / "a/1_emotion.txt").write_text("3.0\n")
    (source / "session.xml").write_text("<session/>")
    (source / "notes.pdf").write_text("no label")
    return Arguments(source, tmp_path / "out", image_size=16)


def _image(path, value, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (40, 30), value if mode == "L" else (value,) * 3).save(path)


class _Detector:
    """Finds a face in every image that is not dark; `after` stops it like Ctrl-C at that call."""

    def __init__(self, after=None):
        self.seen, self.after = [], after

    def __call__(self, image):
        assert image.mode == "RGB"
        if len(self.seen) == self.after:
            raise KeyboardInterrupt
        self.seen.append(image)
        return image.resize((16, 16)) if np.asarray(image).mean() > 50 else None


def _align(arguments, detector):
    output = io.StringIO()
    align(plan(arguments), arguments, detector, Console(file=output, width=300))
    return output.getvalue()


def _written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_faces_keep_their_paths_and_labels_come_along(folders):
    said = _align(folders, _Detector())
    labels = ["a/1_emotion.txt", "broken.txt", "no-face.txt", "session.xml"]
    assert _written(folders.target) == sorted(["a/1.png", "a/2.jpg", *labels])
    assert (folders.target / "a/1_emotion.txt").read_text() == "3.0\n"
    for name, kind in (("a/1.png", "PNG"), ("a/2.jpg", "JPEG")):
        with Image.open(folders.target / name) as image:
            assert (image.size, image.format) == ((16, 16), kind)
    assert (folders.target / "no-face.txt").read_text() == "b/c/1.PNG\n"
    assert re.fullmatch(r"b/broken\.png: .+\n", (folders.target / "broken.txt").read_text())
    assert "2 faces in" in said
    assert "1 images without a face" in said
    assert "1 files that cannot be read" in said


def test_a_second_run_does_only_what_is_left(folders):
    _align(folders, _Detector())
    again = _Detector()
    said = _align(folders, again)
    assert again.seen == []
    assert len((folders.target / "broken.txt").read_text().splitlines()) == 1  # not listed twice
    assert "2 faces in" in said
    assert "1 images without a face" in said
    (folders.target / "a/2.jpg").unlink()
    _align(folders, again)
    assert len(again.seen) == 1
    assert (folders.target / "a/2.jpg").exists()


def test_retry_looks_again_where_no_face_was_found(folders):
    _align(folders, _Detector())
    _image(folders.source / "b/c/1.PNG", 220)
    again = _Detector()
    said = _align(replace(folders, retry=True), again)
    assert len(again.seen) == 1
    assert "3 faces in" in said
    assert not (folders.target / "no-face.txt").exists()


def test_a_run_that_is_stopped_goes_on_and_leaves_no_half_file(folders, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        _align(folders, _Detector(after=1))
    assert (folders.target / "a/1.png").exists()
    assert not (folders.target / "a/2.jpg").exists()

    def stopped(image, path, **options):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            _align(folders, _Detector())
    assert not (folders.target / "a/2.jpg").exists()
    rest = _Detector()
    _align(folders, rest)
    assert len(rest.seen) == 2
    with Image.open(folders.target / "a/2.jpg") as image:
        image.load()
    assert not [name for name in _written(folders.target) if "unfinished" in name]


def test_grey_and_turned_photographs_are_read_as_they_look(tmp_path):
    _image(tmp_path / "in/grey.png", 200, mode="L")
    turned = Image.new("RGB", (40, 30), (200, 200, 200))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "in/turned.jpg", exif=exif)
    detector = _Detector()
    _align(Arguments(tmp_path / "in", tmp_path / "out"), detector)
    assert [image.size for image in detector.seen] == [(40, 30), (30, 40)]


def test_every_kind_of_image_is_written_as_what_it_was(tmp_path):
    for suffix in media.IMAGE_SUFFIXES:
        _image(tmp_path / f"in/1{suffix}", 200)
    assert f"{len(media.IMAGE_SUFFIXES)} faces in" in _align(Arguments(tmp_path / "in", tmp_path / "out"), _Detector())
    for suffix in media.IMAGE_SUFFIXES:
        with Image.open(tmp_path / f"in/1{suffix}") as before, Image.open(tmp_path / f"out/1{suffix}") as after:
            assert (after.format, after.size) == (before.format, (16, 16))


def test_of_a_video_the_middle_frames_are_written_turned_upright(tmp_path):
    av = pytest.importorskip("av")
    video = tmp_path / "in/Sessions/7/S001-007.avi"
    video.parent.mkdir(parents=True)
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mjpeg", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuvj420p"
        for number in range(9):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 32), (25 * number,) * 3))))
        container.mux(stream.encode())
    (tmp_path / "in/Sessions/7/S001-007.xml").write_text("<Session/>")

    def upright(image):
        return image if image.height > image.width else None

    _align(Arguments(tmp_path / "in", tmp_path / "out"), upright)
    names = [f"Sessions/7/S001-007_{number}.png" for number in range(3)]
    assert _written(tmp_path / "out") == ["Sessions/7/S001-007.xml", *names]
    means = [np.asarray(Image.open(tmp_path / "out" / name)).mean() for name in names]
    assert means == pytest.approx([75, 100, 125], abs=3)
    _align(Arguments(tmp_path / "in", tmp_path / "out"), None)  # all done: nothing is looked at


def test_videos_without_pyav_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="reading videos needs PyAV: pip install av"):
        media.middle_frames(tmp_path / "1.avi")


def test_a_crop_is_level_centred_and_as_wide_as_said():
    canvas = np.zeros((200, 200, 3), np.uint8)
    eyes = [[80.0, 80.0], [120.0, 120.0]]  # the right one lower: the head leans
    canvas[78:83, 78:83, 0] = canvas[118:123, 118:123, 1] = 255
    face = np.asarray(crop(Image.fromarray(canvas), [60.0, 70.0, 140.0, 130.0], eyes, margin=0.25, size=120)).astype(float)
    assert face.shape == (120, 120, 3)
    left, right = (np.argwhere(face[..., channel] > 128).mean(0) for channel in (0, 1))
    assert left[0] == pytest.approx(right[0], abs=1.5)  # on one line
    # The box's longer side is 80, so the crop is 120 wide: scale 1, and distances stay.
    assert right[1] - left[1] == pytest.approx(np.hypot(40, 40), abs=1.5)
    assert (left + right) / 2 == pytest.approx([59.5, 59.5], abs=1.5)
    small = crop(Image.fromarray(canvas), [60.0, 70.0, 140.0, 130.0], eyes, margin=0.0, size=120)
    near = [np.argwhere(np.asarray(small)[..., channel] > 128).mean(0)[1] for channel in (0, 1)]
    assert near[1] - near[0] == pytest.approx(np.hypot(40, 40) * 120 / 80, abs=2)


def test_a_crop_at_the_border_is_filled_with_black():
    white = Image.new("RGB", (50, 50), "white")
    face = np.asarray(crop(white, [0.0, 0.0, 20.0, 20.0], [[5.0, 8.0], [15.0, 8.0]], margin=0.5, size=40))
    assert (face[:9, :, :] == 0).all()
    assert (face[12:, 12:, :] == 255).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "nowhere"}, "nowhere is not there"),
        ({"source": "in/session.xml"}, "session.xml is a file, not a folder"),
        ({"source": "empty"}, "IN: no image or video below"),
        ({"source": "packed"}, "unpack its .parquet, .zip files first"),
        ({"target": "in"}, "must not be IN or inside of it"),
        ({"target": "in/a/aligned"}, "must not be IN or inside of it"),
        ({"target": "out/../in/x"}, "must not be IN or inside of it"),
        ({"target": "in/session.xml/.."}, "must not be IN or inside of it"),
        ({"target": "file"}, "file is a file, not a folder"),
        ({"image_size": 4}, "--image-size: must be at least 16, got 4"),
    ],
)
def test_wrong_arguments_are_named(folders, tmp_path, change, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "packed").mkdir()
    for name in ("file", "packed/train.parquet", "packed/images.zip"):
        (tmp_path / name).write_text("")
    change = {name: tmp_path / value if isinstance(value, str) else value for name, value in change.items()}
    with pytest.raises(SystemExit, match=re.escape(message)):
        plan(replace(folders, **change))
    assert not (tmp_path / "out").exists()


def test_without_the_detector_the_command_that_brings_it_is_said(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    monkeypatch.setattr(sys, "argv", ["align_faces.py", str(folders.source), str(folders.target), "--image-size", "32"])
    with pytest.raises(SystemExit, match=r"start this script by `uv run benchmarks/align_faces\.py IN OUT`"):
        align_faces.main()


def test_the_command_runs_and_a_stop_says_how_to_go_on(folders, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["align_faces.py", str(folders.source), str(folders.target), "--image-size", "32"])
    monkeypatch.setattr(align_faces, "mtcnn", lambda arguments: _Detector(after=1 if arguments.image_size == 32 else None))
    with pytest.raises(SystemExit, match="run the same command again to go on"):
        align_faces.main()
    monkeypatch.setattr(align_faces, "mtcnn", lambda arguments: _Detector())
    align_faces.main()
    assert "2 faces in" in capsys.readouterr().out


def test_mtcnn_finds_the_astronaut_and_no_face_in_a_cup_of_coffee(tmp_path):
    pytest.importorskip("facenet_pytorch")
    data = pytest.importorskip("skimage.data")
    detect = align_faces.mtcnn(Arguments(tmp_path, tmp_path, image_size=64))
    astronaut = Image.fromarray(data.astronaut())
    assert detect(astronaut).size == (64, 64)
    assert detect(Image.fromarray(data.coffee())) is None
    assert detect(Image.new("RGB", (8, 8))) is None
