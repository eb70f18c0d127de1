"""The pictures of README and site are drawn by commands: of stored runs, or of short ones."""

import json
import re
import sys
from functools import partial

import draw
import pytest
from PIL import Image
from purifybench import figures
from purifybench import frontier as costs
from purifybench.faces import sets
from purifybench.methods import Purified
from purifybench.results import ResultsStore


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Two seeds of each bar, and runs of other biases, sets and labels that are not to be shown."""
    monkeypatch.setattr(sets, "SPLITS", {"train": 36, "validation": 12, "test": 24})
    monkeypatch.setattr(sets, "AUXILIARY_ROWS", 180)
    found = ResultsStore(tmp_path / "results.jsonl")
    for number, row in enumerate(draw.BARS):
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


def _start(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", ["draw.py", name, *map(str, arguments)])
    draw.main()


def test_the_bars_are_the_runs_of_that_set_bias_and_label_alone(store):
    rows = draw.bars(store, "mmi-like", 0.95)
    assert [row.accuracy["unbiased"].mean for row in rows] == [0.5, 20.5, 40.5, 60.5]
    with pytest.raises(SystemExit, match=r"has no runs of .* on mmi-like with bias 0\.5"):
        draw.bars(store, "mmi-like", 0.5)


def test_the_first_picture_is_drawn(store, faces_cache, monkeypatch):
    pytest.importorskip("dicebear")
    pytest.importorskip("resvg_py")
    _start(monkeypatch, "first", store, "--cache", faces_cache, "--out", store / "new" / "first.png")
    assert _size(store / "new" / "first.png")[0] > 1000


def test_curves_are_drawn_with_how_each_run_ended(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(draw, "FORMS", {"healthy": Purified, "watched": partial(Purified, strength=0.0)})
    _start(monkeypatch, "curves", "--steps", 40, "--out", tmp_path / "new" / "curves.png")
    assert _size(tmp_path / "new" / "curves.png")[1] > 200
    assert "healthy: " in (said := capsys.readouterr().out)
    assert "watched: " in said


@pytest.fixture
def start_features(tmp_path, monkeypatch):
    """Draw into a folder of its own."""

    def run(*arguments):
        _start(monkeypatch, "features", "--out", tmp_path / "new" / "f.png", *arguments)
        return tmp_path / "new" / "f.png"

    return run


def test_features_of_a_plain_and_a_purified_network_are_drawn(start_features, capsys):
    assert start_features("--steps", "2").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert re.search(r"^plain: colour \d+\.\d % ", out)
    assert re.search(r"^purified: colour \d+\.\d % ", out, flags=re.MULTILINE)


def test_wrong_arguments_are_named(start_features):
    with pytest.raises(SystemExit, match="--steps: must be at least 1, got 0"):
        start_features("--steps", "0")


def _validated(task, row, seed, oracle):
    key = {"task": task, "row": row, "settings": {"seed": seed, "backbone": "small-bn"}}
    return {"key": key, "accuracy": {"validation": 99.0, "oracle": oracle}}


@pytest.fixture
def measured(tmp_path):
    """Two seeds of one task, a cost of every form, a run on another network, and one of a task without any form."""
    store = ResultsStore(tmp_path / "results.jsonl")
    for seed, shift in ((1, -1.0), (2, 1.0)):
        store.add(_validated("colour", "plain", seed, 40.0 + shift))
        store.add(_validated("colour", "upper bound", seed, 90.0 + shift))
        for number, form in enumerate(costs.FORMS):
            store.add(_validated("colour", costs.form_name(*form), seed, 60.0 + number + shift))
    other = _validated("colour", "plain", 1, 0.0)
    other["key"]["settings"]["backbone"] = "small-gn"
    store.add(other)
    store.add(_validated("pictures", "plain", 1, 50.0))
    cost = {costs.form_name(*form): {"ratio": 1.1 + 0.1 * number} for number, form in enumerate(costs.FORMS)}
    (tmp_path / "cost.json").write_text(json.dumps({"result": {"resnet18": {"plain loop": {"ratio": 1.0}} | cost}}))
    return tmp_path


def _start_frontier(monkeypatch, folder, *arguments):
    paths = ["--accuracy", f"{folder}/results.jsonl", "--cost", f"{folder}/cost.json", "--out", f"{folder}/out.png"]
    _start(monkeypatch, "frontier", *paths, *arguments)


def test_the_plot_and_the_table_join_accuracy_and_cost_by_form(measured, monkeypatch):
    _start_frontier(monkeypatch, measured)
    assert (measured / "out.png").stat().st_size > 10_000
    lines = (measured / "out.md").read_text().splitlines()
    assert lines[2] == "| 8 of 64 rows, every step | 1.10x | 40 |  |"  # 20 of 50 points
    assert lines[-1] == "| 64 of 64 rows, every 3 steps | 1.90x | 56 |  |"
    assert len(lines) == 2 + len(costs.FORMS)


def test_what_is_missing_is_named(measured, monkeypatch):
    with pytest.raises(SystemExit, match="nothing to plot"):
        _start_frontier(monkeypatch, measured, "--accuracy-backbone", "resnet18")
    with pytest.raises(SystemExit, match=r"there is no .*absent\.json"):
        _start_frontier(monkeypatch, measured, "--cost", f"{measured}/absent.json")


def test_every_method_of_a_table_has_a_colour_of_its_own_in_every_figure():
    tables = (
        ["plain", "upper bound", "wdpurify", "wdpurify, erased at the end", "gradient reversal"],
        [
            *("plain", "upper bound", "balanced batches", "group DRO", "wdpurify, balanced"),
        ],
    )
    for table in tables:
        assert len({figures.COLOURS.get(method) for method in table} - {None}) == len(table)
