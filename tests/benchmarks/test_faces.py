"""Cartoon faces: what is drawn is what was said, seeds decide, the bias is what was asked for."""

import numpy as np
import pytest
import torch
from purifybench.faces import sets
from purifybench.faces.composition import EXPRESSIONS, HAIR_COLOURS, STYLES, Face, draw_person, options
from purifybench.faces.rendering import render
from purifybench.methods import FACE_METHODS
from purifybench.tasks import cartoon_faces
from purifybench.training import Settings, train

pytest.importorskip("dicebear")
pytest.importorskip("resvg_py")


@pytest.fixture(autouse=True)
def _small_sets(monkeypatch):
    monkeypatch.setattr(sets, "SPLITS", {"train": 36, "validation": 12, "test": 24})
    monkeypatch.setattr(sets, "AUXILIARY_ROWS", 180)


def _face(style="adventurer", seed=0, **changes):
    person = draw_person(style, np.random.default_rng(seed))
    return Face(**({"expression": "anger", "hair": "black"} | person | changes))


@pytest.mark.parametrize("style", STYLES)
def test_hair_and_expression_change_pixels_of_their_own(style):
    plain, blond, happy = (
        render(_face(style, **change), 64) for change in ({}, {"hair": "blond"}, {"expression": "happiness"})
    )
    hair, mimic = (plain != blond).any(2), (plain != happy).any(2)
    assert hair.mean() > 0.01
    assert mimic.mean() > 0.005
    assert (hair & mimic).mean() < 0.01  # soft edges where a lock meets a brow


@pytest.mark.parametrize("style", STYLES)
def test_every_expression_of_a_style_can_be_drawn_and_differs(style):
    drawn = [render(_face(style, expression=expression), 32) for expression in EXPRESSIONS]
    assert all(not np.array_equal(first, second) for n, first in enumerate(drawn) for second in drawn[:n])
    assert STYLES[style].credit


def test_options_name_what_the_face_says():
    chosen = options(_face(hair="red"))
    assert chosen["hairColor"] == HAIR_COLOURS["red"]
    assert chosen["mouthVariant"] in STYLES["adventurer"].parts["anger"]["mouth"]


def test_sets_depend_on_the_seed_alone_and_come_from_the_cache_the_second_time(tmp_path, monkeypatch):
    first = sets.task_faces("ck-like", seed=0, size=32, cache=tmp_path / "one")
    again = sets.task_faces("ck-like", seed=0, size=32, cache=tmp_path / "two")
    other = sets.task_faces("ck-like", seed=1, size=32, cache=tmp_path / "one")
    assert first["hair"] == again["hair"] != other["hair"]
    assert np.array_equal(np.asarray(first[5]["image"]), np.asarray(again[5]["image"]))
    monkeypatch.setattr(sets, "render_all", None)
    assert len(sets.task_faces("ck-like", seed=0, size=32, cache=tmp_path / "one")) == 2 * (36 + 12 + 24)


def test_a_grey_set_is_grey_and_the_others_are_not(faces_cache):
    grey, colour = (
        np.asarray(sets.task_faces(name, seed=0, size=32, cache=faces_cache)[0]["image"]).astype(int)
        for name in ("ck-like", "mmi-like")
    )
    assert np.ptp(grey, axis=2).max() <= 1
    assert np.ptp(colour, axis=2).max() > 20


@pytest.mark.parametrize("bias", [0.0, 0.5, 1.0])
def test_the_bias_is_the_share_of_faces_whose_hair_goes_with_the_expression(faces_cache, bias, monkeypatch):
    monkeypatch.setattr(sets, "SPLITS", {"train": 120, "validation": 6, "test": 6})
    faces = sets.task_faces("mmi-like", seed=0, size=16, cache=faces_cache)
    paired = np.array(faces["draw"]) < bias
    kept = faces.select(np.flatnonzero((np.array(faces["paired"]) == paired) & (np.array(faces["split"]) == "train")))
    assert len(set(kept["person"])) == len(kept) == 120
    goes = [
        hair == sets.partner(sets.TASK_SETS["mmi-like"], label)
        for hair, label in zip(kept["hair"], kept["expression"], strict=True)
    ]
    assert abs(np.mean(goes) - (bias + (1 - bias) / 6)) < 0.12


def test_a_task_tests_on_other_people_and_other_sets(faces_cache):
    task = cartoon_faces.build(seed=0, train="ck-like", cache=faces_cache, image_size=16)
    assert list(task.tests) == ["within", "unbiased", "mmi-like", "oulu-like"]
    assert task.train.images.shape == (36, 3, 16, 16)
    assert task.train.images.dtype == torch.uint8
    assert sorted(set(task.auxiliary.groups)) == sorted(HAIR_COLOURS)
    assert torch.equal(task.upper.labels, task.train.labels)
    smiling = cartoon_faces.build(seed=0, train="ck-like", cache=faces_cache, image_size=16, label="smiling")
    assert set(smiling.auxiliary.groups) == {True, False}
    with pytest.raises(ValueError, match=r"`bias` must be in \[0, 1\], got 2"):
        cartoon_faces.build(seed=0, train="ck-like", cache=faces_cache, bias=2)


@pytest.mark.filterwarnings("ignore::wdpurify.exceptions.ForeignHeadWarning")  # A few steps train no head.
@pytest.mark.parametrize("method", FACE_METHODS)
def test_every_method_runs_on_faces(faces_cache, method):
    task = cartoon_faces.build(seed=0, train="ck-like", cache=faces_cache, image_size=16)
    outcome = train(task, FACE_METHODS[method], Settings(steps=4, batch_size=12), device=torch.device("cpu"))
    assert all(0 <= accuracy <= 100 for accuracy in outcome.accuracy.values())
