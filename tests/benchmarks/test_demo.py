"""`make demo`: four rows, a table that grows, and warnings that stand in the table."""

import sys
import warnings
from dataclasses import replace

import demo
import pytest
from purifybench.jobs import Job, run_jobs
from purifybench.methods import Plain
from purifybench.report import markdown_table, summarise
from purifybench.results import ResultsStore
from purifybench.tasks import biased_colour
from purifybench.training import Settings

from wdpurify._findings import FINDINGS
from wdpurify.exceptions import FeatureScaleWarning


def test_the_demo_makes_its_four_rows(tmp_path, monkeypatch, capsys):
    short = replace(demo.BENCHES["colour"], seeds=(0,), tuning_seeds=(1001,))
    monkeypatch.setattr(demo, "BENCHES", {"colour": short})
    options = ["--tasks", "colour", "--steps", "3", "--workers", "1", "--out", str(tmp_path)]
    for _ in range(2):  # the second time makes its runs anew
        monkeypatch.setattr(sys, "argv", ["demo.py", *options])
        demo.main()
        last = capsys.readouterr().out.rpartition("Which digit?")[2].partition("The weight")[0]
        assert all(name in last for name in demo.ROWS.values())
        assert "..." not in last
        assert len(ResultsStore(tmp_path / "results.jsonl").records()) == 4 + 4  # four rows, and four weights


class _NoAuxiliaryFacesError(Exception):
    """Ends the building of a task before anything is drawn."""


def test_faces_of_one_set_are_drawn_alone(tmp_path, monkeypatch):
    drawn = []

    def stop(*_, **__):
        raise _NoAuxiliaryFacesError

    monkeypatch.setattr(demo.cartoon_faces, "task_faces", lambda name, **where: drawn.append(name))
    monkeypatch.setattr(demo.cartoon_faces, "auxiliary_faces", stop)
    with pytest.raises(_NoAuxiliaryFacesError):
        demo.BENCHES["faces"].build(seed=0, cache=tmp_path)
    assert drawn == ["mmi-like"]


def _record(row, seed, *, warned=()):
    key = {"row": row, "settings": {"seed": seed}}
    accuracy = {"validation": 99.0, "clean": 90.0, "shifted": 50.0 + seed}
    return {"key": key, "accuracy": accuracy, "seconds_per_step": 0.005, "warnings": list(warned)}


def test_rows_that_are_not_there_yet_are_dots():
    found = [_record("plain", 0), _record("wdpurify", 0, warned=["collapsed features"])]
    rows = demo.table(demo.BENCHES["colour"], found)
    assert list(rows.columns[0].cells) == [
        "plain training",
        "gradient reversal, tuned",
        "wdpurify (collapsed features)",
        "trained without the bias",
    ]
    assert list(rows.columns[1].cells) == ["90.0", "...", "90.0", "..."]


def test_the_table_is_made_anew_after_each_run(tmp_path):
    seen = []
    arguments = demo.Arguments(tasks=("colour",), steps=1, workers=1, out=tmp_path)
    seen_so_far = lambda found: seen.append(found) or ""  # noqa: E731
    arguments.records([demo.plan("colour", arguments)], demo.build_task, title="colour", above=seen_so_far)
    rows = [{record["key"]["row"] for record in found} for found in seen]
    assert {"plain", "wdpurify", "upper bound"} in rows  # before the tuned row
    assert rows[-1] == set(demo.ROWS)


def test_the_table_says_how_many_runs_warned():
    records = [_record("a", 0, warned=["collapsed features"]), _record("a", 1), _record("b", 0, warned=["dead critic"])]
    table = markdown_table(summarise(records))
    assert "ms/step | warnings |" in table
    assert "| 5.0 | collapsed features (1 of 2) |" in table
    assert "| 5.0 | dead critic |" in table
    assert "warnings" not in markdown_table(summarise([_record("a", 0)]))


class _Alarming(Plain):
    def loss(self, images, labels):
        finding = FINDINGS["collapsed features"]
        warnings.warn(f"{finding.what} {finding.remedy}", FeatureScaleWarning, stacklevel=2)
        return super().loss(images, labels)


def _colour(job):
    return biased_colour.build(seed=job.settings.seed)


def test_a_warning_of_a_run_is_kept_in_its_record_and_not_shown(tmp_path):
    store = ResultsStore(tmp_path / "results.jsonl")
    run_jobs(
        [Job("colour", "alarming", Settings(steps=2))], _colour, store, workers=1, title="", methods={"alarming": _Alarming}
    )
    (record,) = store.records()  # warnings are errors in tests: none came out
    assert record["warnings"] == ["collapsed features"]
