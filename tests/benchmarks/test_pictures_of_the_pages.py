"""The pictures of README and site are drawn by commands: of stored runs, or of short ones."""

import sys
from functools import partial

import curves
import first_picture
import pytest
from PIL import Image
from purifybench import figures
from purifybench.faces import sets
from purifybench.methods.purified import Purified
from purifybench.results import ResultsStore

FACES = ["--size", "16"]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Two seeds of each bar, and runs of other biases, sets and labels that are not to be shown."""
    monkeypatch.setattr(sets, "SPLITS", {"train": 36, "validation": 12, "test": 24})
    monkeypatch.setattr(sets, "AUXILIARY_ROWS", 180)
    found = ResultsStore(tmp_path / "results.jsonl")
    for number, row in enumerate(first_picture.BARS):
        for seed in (0, 1):
            _add(found, row, seed, 20.0 * number + seed)
    _add(found, "adversarial multi-task", 2, 99.0, task="ck-like")
    _add(found, "adversarial multi-task", 2, 99.0, bias=0.7)
    _add(found, "adversarial multi-task", 2, 99.0, label="smiling")
    return tmp_path


def _add(store, row, seed, unbiased, *, task="mmi-like", bias=0.95, label="hair"):
    data = {"label": label, "auxiliary": "same", "bias": bias}
    key = {"task": task, "row": row, "settings": {"seed": seed}, "data": data}
    store.add({"key": key, "accuracy": {"within": 1.0, "unbiased": unbiased, "ck-like": 2.0}, "seconds_per_step": 1.0})


def _size(path):
    with Image.open(path) as picture:
        return picture.size


def _start(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
    module.main()


def test_the_bars_are_the_runs_of_that_set_bias_and_label_alone(store):
    rows = first_picture.bars(first_picture.Arguments(store))
    assert [row.accuracy["unbiased"].mean for row in rows] == [0.5, 20.5, 40.5, 60.5]
    with pytest.raises(SystemExit, match=r"has no runs of .* on mmi-like with bias 0\.5"):
        first_picture.bars(first_picture.Arguments(store, bias=0.5))


def test_the_first_picture_is_drawn(store, faces_cache, monkeypatch):
    pytest.importorskip("dicebear")
    pytest.importorskip("resvg_py")
    _start(first_picture, monkeypatch, store, *FACES, "--cache", faces_cache, "--out", store / "new" / "first.png")
    assert _size(store / "new" / "first.png")[0] > 1000


def test_curves_are_drawn_with_how_each_run_ended(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(curves, "FORMS", {"healthy": Purified, "watched": partial(Purified, strength=0.0)})
    _start(curves, monkeypatch, "--steps", 40, "--out", tmp_path / "new" / "curves.png")
    assert _size(tmp_path / "new" / "curves.png")[1] > 200
    assert "healthy: " in (said := capsys.readouterr().out)
    assert "watched: " in said


def test_every_method_of_a_table_has_a_colour_of_its_own_in_every_figure():
    tables = (
        ["plain", "upper bound", "wdpurify", "wdpurify, erased at the end", "gradient reversal"],
        [
            *("plain", "upper bound", "balanced batches", "group DRO", "wdpurify, balanced"),
        ],
    )
    for table in tables:
        assert len({figures.colour_of(method) for method in table} - {None}) == len(table)
