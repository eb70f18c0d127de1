"""The user's own face sets: layouts, peak frames, labels, wrong folders, and splits in which nobody comes twice."""

import itertools
import re
import shutil
import sys
from collections import Counter

import fer
import pytest
import torch
from face_folders import celeba_folder, ck_plus, empty, mmi, mmi_session, oulu, plain_folders, write_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from purifybench.faces.composition import EXPRESSIONS
from purifybench.faces.layouts import CK_CODES, LAYOUTS, MMI_CODES, read_set
from purifybench.faces.rows import load_images
from purifybench.methods import FACE_METHODS
from purifybench.tasks import real_faces
from purifybench.training import Settings, train


@pytest.fixture(autouse=True)
def _fresh_caches():
    real_faces._load.cache_clear()
    real_faces._auxiliary.cache_clear()


BUILDERS = {"ck+": ck_plus, "mmi": mmi, "oulu": oulu}


def _names(rows, expression="anger", subject=None):
    return sorted({row.image.stem[-4:] for row in rows if row.expression == expression and subject in (None, row.subject)})


@pytest.mark.parametrize(
    ("name", "build", "peak"),
    [
        ("ck+", ck_plus, ["0003", "0004", "0005"]),
        ("oulu", oulu, ["002", "003", "004"]),
        ("mmi", mmi, ["0002", "0003", "0004"]),
    ],
)
def test_of_a_sequence_the_peak_frames_count(tmp_path, name, build, peak):
    rows = read_set(name, build(tmp_path))
    assert _names(rows) == peak
    assert Counter(row.expression for row in rows) == dict.fromkeys(EXPRESSIONS, 4 * 3)
    assert len({row.subject for row in rows}) == 4


def test_a_short_sequence_gives_all_its_frames(tmp_path):
    assert len(read_set("ck+", ck_plus(tmp_path, frames=2))) == 4 * 6 * 2


def test_codes_are_those_of_each_set(tmp_path):
    rows = read_set("ck+", ck_plus(tmp_path / "ck", images="extended-cohn-kanade-images/cohn-kanade-images"))
    assert {int(row.image.parent.name): row.expression for row in rows} == CK_CODES
    assert {row.subject for row in rows} == {"S000", "S001", "S002", "S003"}
    rows = read_set("mmi", mmi(tmp_path / "mmi"))
    assert {int(row.image.parent.name) % 10: row.expression for row in rows} == MMI_CODES


@pytest.mark.parametrize("root", ["VL/Strong", "PreProcess Img/VL_Acropped/Strong", "."])
def test_oulu_is_found_in_its_other_folders(tmp_path, root):
    rows = read_set("oulu", oulu(tmp_path, root=root))
    assert {row.subject for row in rows} == {"P000", "P001", "P002", "P003"}


def test_profiles_and_sessions_without_one_of_six_emotions_are_left_out(tmp_path):
    mmi(tmp_path)
    before = read_set("mmi", tmp_path)
    mmi_session(tmp_path, 91, 9, 1, view="1")
    mmi_session(tmp_path, 92, 9, 8)
    mmi_session(tmp_path, 93, 9, None)
    assert read_set("mmi", tmp_path) == before
    mmi_session(tmp_path, 94, 9, 1, view="2")
    assert {row.subject for row in read_set("mmi", tmp_path / "Sessions")} == {"S000", "S001", "S002", "S003", "S009"}


def test_a_subject_without_its_name_in_files_comes_from_the_session(tmp_path):
    mmi(tmp_path)
    session = mmi_session(tmp_path, 91, 9, 1, frames=0)
    (session / "S009-091.xml").rename(session / "labels.xml")
    write_image(session / "0001.png")
    with pytest.raises(ValueError, match=r"no file is called like S001-002\.avi .* whose face is it"):
        read_set("mmi", tmp_path)
    (session / "session.xml").write_text('<session><Subject ID="77"/></session>')
    assert [row.image.name for row in read_set("mmi", tmp_path) if row.subject == "77"] == ["0001.png"]
    (session / "session.xml").write_text("<session>")
    with pytest.raises(ValueError, match=r"session.xml is not XML \(no element found.*copy it again"):
        read_set("mmi", tmp_path)


def test_videos_give_their_middle_frames(tmp_path):
    av = pytest.importorskip("av")
    mmi(tmp_path, frames=0)
    for session in (tmp_path / "Sessions").iterdir():
        _video(av, session / f"{next(session.glob('S*.xml')).stem}.avi", frames=9)
    rows = read_set("mmi", tmp_path)
    assert Counter(row.expression for row in rows) == dict.fromkeys(EXPRESSIONS, 4 * 3)
    means = load_images(rows[:3], 16).float().mean((1, 2, 3))
    torch.testing.assert_close(means, torch.tensor([60.0, 80.0, 100.0]), atol=3, rtol=0)  # frames 3, 4 and 5
    _video(av, rows[0].image, frames=2)
    with pytest.raises(ValueError, match=r"\.avi must have at least 3 frames, got 2"):
        load_images(rows[:3], 16)
    rows[0].image.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"\.avi cannot be read as a video"):
        load_images(rows[:3], 16)


def _video(av, path, frames):
    """Frame i has the grey value 20 i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=24)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        for number in range(frames):
            frame = av.VideoFrame.from_image(Image.new("RGB", (32, 32), (20 * number,) * 3))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_folder_per_expression_does_for_every_set(tmp_path, name):
    rows = read_set(name, plain_folders(tmp_path / "flat"))
    assert Counter(row.expression for row in rows) == dict.fromkeys(EXPRESSIONS, 4)
    assert {row.subject for row in rows} == {"S000", "S001", "S002", "S003"}
    plain_folders(tmp_path / "split" / "train", people=3)
    plain_folders(tmp_path / "split" / "Test", people=5)
    assert len(read_set(name, tmp_path / "split")) == 6 * (3 + 5)


def _without(pattern):
    def change(folder):
        for path in sorted(folder.glob(pattern)):
            shutil.rmtree(path)

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ck+", shutil.rmtree, "no folder for ck+"),
        ("mmi", empty, "no image of mmi found"),
        ("oulu", empty, "no image of oulu found"),
        ("ck+", _without("Emotion"), "36 sequences of images, but no emotion file"),
        ("ck+", _without("cohn-kanade-images"), "emotion files, but no folder cohn-kanade-images"),
        ("ck+", _without("cohn-kanade-images/S002"), "8 of 32 labelled sequences have no image, such as S002/000, S002/001"),
        ("ck+", _without("Emotion/*/003"), "images, but none of disgust"),
        ("ck+", _without("Emotion/S00[1-3]"), "all 18 images are of one subject, 'S000'"),
        ("mmi", _without("Sessions/*[45]"), "48 images, but none of happiness, sadness"),
        ("oulu", _without("OriginalImg/VL/Strong/*/Fear"), "4 of 24 labelled sequences have no image, such as P000/fear"),
    ],
)
def test_wrong_folders_are_named_with_what_was_expected_and_found(tmp_path, name, change, message):
    folder = BUILDERS[name](tmp_path / "set")
    change(folder)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_set(name, folder)
    assert str(caught.value).startswith(str(folder))
    assert re.search(r"\nexpected\n  \S.*\n\nfound\n  \S.*\n\n\S.*\.$", str(caught.value), re.DOTALL)


def test_mmi_without_labels_or_videos_is_named(tmp_path):
    folder = mmi(tmp_path)
    for path in (folder / "Sessions").glob("1?/*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="6 of 24 labelled sequences have no image, such as 11, 12, 13"):
        read_set("mmi", folder)
    for path in folder.glob("Sessions/*/S*.xml"):
        path.unlink()
    with pytest.raises(ValueError, match="none of 24 sessions has an XML file with an emotion of 1 to 6"):
        read_set("mmi", folder)


def test_a_few_missing_sequences_are_said_and_left_out(tmp_path):
    _without("cohn-kanade-images/S002/003")(ck_plus(tmp_path))
    with pytest.warns(UserWarning, match="1 of 32 labelled sequences have no image, such as S002/003; they are left out"):
        rows = read_set("ck+", tmp_path)
    assert len(rows) == (4 * 6 - 1) * 3


@pytest.mark.parametrize("text", ["", "happy", "9.0"])
def test_a_broken_emotion_file_is_named(tmp_path, text):
    ck_plus(tmp_path)
    next(tmp_path.glob("Emotion/S001/003/*.txt")).write_text(text)
    with pytest.raises(ValueError, match=f"S001_003_00000005_emotion.txt must hold one number from 0 to 7, got {text!r}"):
        read_set("ck+", tmp_path)


def test_names_without_a_subject_are_refused(tmp_path):
    plain_folders(tmp_path)
    write_image(tmp_path / "happy" / "17.png")
    with pytest.raises(ValueError, match=r"1 of 25 file names do not start with a subject, such as 17\.png"):
        read_set("ck+", tmp_path)


def test_images_become_square_bytes_and_broken_ones_are_named(tmp_path):
    rows = read_set("ck+", ck_plus(tmp_path))
    images = load_images(rows[:5], 16)
    assert images.shape == (5, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert torch.equal(images[:, 0], images[:, 1])  # grey
    assert len({image.numpy().tobytes() for image in images}) == 3  # the three frames, and not one of them repeated
    rows[1].image.write_bytes(rows[0].image.read_bytes()[:60])
    with pytest.raises(ValueError, match=re.escape(f"{rows[1].image} cannot be read as an image")):
        load_images(rows[:2], 16)


@given(
    rows=st.lists(st.tuples(st.sampled_from("abcdefghij"), st.integers(0, 2)), min_size=6, max_size=60),
    seed=st.integers(0, 2**32),
)
def test_nobody_is_in_two_parts_and_every_class_is_learned(rows, seed):
    subjects, labels = [row[0] for row in rows], [row[1] for row in rows]
    count = len(set(subjects))
    if count < 3 or _reference_no_cover(rows, count - 2 * max(1, round(0.15 * count))):
        with pytest.raises(ValueError, match="three subjects at least" if count < 3 else f"no split of {count} subjects"):
            real_faces.split_by_subject(subjects, labels, seed=seed, attempts=20)
        return
    parts = real_faces.split_by_subject(subjects, labels, seed=seed)
    people = {name: {subjects[row] for row in part.tolist()} for name, part in parts.items()}
    assert list(parts) == ["train", "validation", "test"]
    assert all(people.values())
    assert sum(map(len, people.values())) == count
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(len(rows)))
    assert {labels[row] for row in parts["train"].tolist()} == set(labels)


def _reference_no_cover(rows, size):
    """Whether no `size` people have all classes between them, by trying all of them."""
    classes = {subject: {label for found, label in rows if found == subject} for subject, _ in rows}
    wanted = {label for _, label in rows}
    return not any(
        set().union(*(classes[subject] for subject in chosen)) == wanted for chosen in itertools.combinations(classes, size)
    )


def test_splits_depend_on_the_seed_and_have_the_shares_they_say():
    subjects = [f"S{number % 40:03}" for number in range(400)]
    labels = [number % 6 for number in range(400)]
    first, again, other = (real_faces.split_by_subject(subjects, labels, seed=seed) for seed in (0, 0, 1))
    assert [len(part) for part in first.values()] == [280, 60, 60]
    assert torch.equal(first["test"], again["test"])
    assert not torch.equal(first["test"], other["test"])


def _folders(tmp_path):
    return {name: build(tmp_path / name) for name, build in BUILDERS.items()}


def test_a_task_trains_on_one_set_and_tests_on_unseen_people_and_the_others(tmp_path, monkeypatch):
    folders, faces = _folders(tmp_path), celeba_folder(tmp_path / "celeba")
    task = real_faces.build(seed=0, train="ck+", folders=folders, celeba=faces, image_size=16, auxiliary_rows=24)
    assert list(task.tests) == ["within", "mmi", "oulu"]
    assert [len(task.train.labels), len(task.validation.labels), len(task.tests["within"].labels)] == [36, 18, 18]
    assert len(task.tests["mmi"].labels) == len(task.tests["oulu"].labels) == 4 * 6 * 3
    assert task.train.images.shape == (36, 3, 16, 16)
    assert task.train.images.dtype == task.auxiliary.images.dtype == torch.uint8
    assert set(task.train.labels.tolist()) == set(range(len(EXPRESSIONS)))
    assert task.auxiliary.fixed == "black"
    assert len(task.auxiliary.groups) == len(task.auxiliary.images) == 24
    assert task.upper is task.oracle is None
    monkeypatch.setattr(real_faces, "load_images", None)  # decoded once
    smiling = real_faces.build(
        seed=1, train="oulu", folders=folders, celeba=faces, image_size=16, label="smiling", auxiliary_rows=24
    )
    assert list(smiling.tests) == ["within", "ck+", "mmi"]
    assert smiling.auxiliary.fixed is True
    assert set(smiling.auxiliary.groups) == {True, False}


@pytest.mark.filterwarnings("ignore::wdpurify.exceptions.ForeignHeadWarning")  # A few steps train no head.
@pytest.mark.parametrize("method", FACE_METHODS)
def test_methods_train_on_them(tmp_path, method):
    task = real_faces.build(
        seed=0,
        train="mmi",
        folders=_folders(tmp_path),
        celeba=celeba_folder(tmp_path / "celeba", rows=240),
        image_size=16,
        auxiliary_rows=150,
    )
    outcome = train(task, FACE_METHODS[method], Settings(steps=2, batch_size=12), device=torch.device("cpu"))
    assert set(outcome.accuracy) >= {"within", "ck+", "oulu"}
    assert all(0 <= accuracy <= 100 for accuracy in outcome.accuracy.values())


def test_too_few_people_to_split_are_named_with_their_folder(tmp_path):
    folders = {"ck+": ck_plus(tmp_path / "ck", people=2), "oulu": oulu(tmp_path / "oulu")}
    with pytest.raises(ValueError, match="ck: training, validation and test need three subjects at least, got 2"):
        real_faces.build(seed=0, train="ck+", folders=folders, celeba=tmp_path, image_size=16)


def test_the_benchmark_runs_on_them(tmp_path, monkeypatch):
    folders, faces = _folders(tmp_path), celeba_folder(tmp_path / "celeba", rows=240)
    options = [part for name, path in folders.items() for part in (f"--{name.rstrip('+')}", str(path))]
    few = ["--steps", "2", "--image-size", "16", "--workers", "1", "--seeds", "0", "--auxiliary-rows", "150"]
    methods = ["--methods", "adversarial multi-task", "upper bound", fer.DEFAULT]
    out = ["--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["fer.py", *options, "--celeba", str(faces), *few, *methods, *out])
    fer.main()
    text = (tmp_path / "out" / "faces-small-bn-2-steps" / "report.md").read_text()
    assert text.startswith("Table I analogue, real data, small-bn, 2 steps, 1 seeds")
    assert [line.split(" | ")[0] for line in text.splitlines() if "→" in line][1:] == [
        f"| {train} → {test}" for train in folders for test in folders if test != train
    ]
    assert "upper bound" not in text  # nobody knows these people with other hair
    assert "oracle" not in text
    monkeypatch.setattr(sys, "argv", ["fer.py", *options, "--celeba", str(faces / "nothing"), *few])
    with pytest.raises(SystemExit, match="nothing: "):
        fer.main()
