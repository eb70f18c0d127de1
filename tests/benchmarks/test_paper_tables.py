"""Tables made of stored runs: counts and tests, the paper's own figures, and reports."""

import json
import math
import re
import sys

import numpy as np
import pandas as pd
import pytest
import report
import tyro
from purifybench import paper, paper_tables
from purifybench.results import ResultsStore


def _record(task, row, seed, data=None, backbone="small-bn", **accuracy):
    settings = {"seed": seed, "backbone": backbone, "steps": 5, "batch_size": 64, "lr": 0.01}
    key = {"task": task, "row": row, "settings": settings, "data": data or {}, "test": True}
    shares = [0.5, 0.2, 0.1, 0.1, 0.05, 0.01, 0.01, 0.01, 0.01, 0.01]
    return {"key": key, "accuracy": accuracy, "seconds_per_step": 0.01, "figures": [], "component_shares": shares}


def test_the_cross_table_counts_pairs_and_tests_the_seeds_averages():
    rows = [("plain", (30.0, 40.0), (32.0, 40.0)), ("PL", (40.0, 39.0), (44.0, 39.0))]
    records = [_record("a", name, seed, b=runs[seed][0], c=runs[seed][1]) for name, *runs in rows for seed in (0, 1)]
    gains = np.array([4.5, 5.5])
    p_value = 2 * (0.5 - math.atan(gains.mean() / (gains.std(ddof=1) / math.sqrt(2))) / math.pi)
    assert paper_tables.cross_lines(records, {"a → b": {"PL": 37.6}}) == [
        ["train → test", "plain", "PL", "paper: PL"],
        ["a → b", "31.0 ± 12.7", "42.0 ± 25.4", "37.6"],
        ["a → c", "40.0 ± 0.0", "39.0 ± 0.0", ""],
        ["average", "35.5 ± 6.4", "40.5 ± 12.7", ""],
        ["won/tied/lost", "", "1/0/1", ""],
        ["p, paired t over seeds", "", f"{p_value:.3f}", ""],
    ]


def test_the_papers_averages_come_out_of_its_cells_but_for_one():
    """The paper prints 37.37 for AMTL with AlexNet; its six cells average to 37.71."""
    table = pd.read_csv(paper.FACES, index_col=["extractor", "method"])
    means = table.drop(columns="average").mean(axis=1)
    wrong = means[(means - table["average"]).abs() > 0.0101].round(2).to_dict()
    assert wrong == {("alexnet", "AMTL"): 37.71}
    assert {name: round(value, 2) for name, value in paper.digits("MNIST-M", "small").items()} == {
        "Goal 1": 29.33,
        "DANN": 25.08,
        "PL": 45.08,
    }
    assert paper.digits("SVHN", "resnet18") == {"Goal 1": 15.01, "DANN": 12.0, "PL": 18.83}


@pytest.fixture
def stored(tmp_path):
    """Runs of faces and digits in two folders."""
    face = {"label": "hair", "auxiliary": "same", "image_size": 32, "bias": 0.7}
    digit = {"bias": 0.95, "image_size": 16, "real": {"train": None}}
    names, values = ("plain", "wdpurify"), (40.0, 60.0)
    for folder, records in {
        "faces": [
            _record(train, name, seed, face, within=90.0, unbiased=value, **{test: value + seed})
            for name, value in zip(names, values, strict=True)
            for seed in (0, 1)
            for train, test in (("ck-like", "mmi-like"), ("mmi-like", "ck-like"))
        ],
        "digits": [
            _record("photo", name, seed, digit, backbone, clean=95.0, shifted=value + seed)
            for name, value in zip((*names, "gradient reversal"), (*values, 50.0), strict=True)
            for seed in (0, 1)
            for backbone in ("small-bn", "resnet18")
        ],
    }.items():
        for record in records:
            ResultsStore(tmp_path / folder / "results.jsonl").add(record)
    return tmp_path


def test_report_puts_stores_together_beside_the_papers_figures(stored, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report.py", str(stored / "faces"), str(stored / "digits"), "--out", str(stored / "r")])
    tyro.cli(report.main)
    faces = (stored / "r" / "faces-small-bn-bias-0.7-5-steps" / "report.md").read_text()
    # 40 and 41, 60 and 61: half widths of t(0.975, 1) * 0.5; the paper's means over its three networks.
    row = next(line for line in faces.splitlines() if line.startswith("| ck-like → mmi-like"))
    assert row == "| ck-like → mmi-like | 40.5 ± 6.4 | 60.5 ± 6.4 | 44.0 | 44.5 |"
    assert "| won/tied/lost |  | 2/0/0 |" in faces
    digits = (stored / "r" / "digits-all-bias-0.95-5-steps" / "report.md").read_text()
    assert "| photo → shifted | resnet18 | 40.5 ± 6.4 | 50.5 ± 6.4 | 60.5 ± 6.4 | 25.1 | 22.5 | 37.6 |" in digits
    assert "| photo → shifted | small-bn | 40.5 ± 6.4 | 50.5 ± 6.4 | 60.5 ± 6.4 | 29.3 | 25.1 | 45.1 |" in digits


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, ["nowhere"], "nowhere: there is no such file or folder"),
        (None, ["."], "no results.jsonl in it"),
        ('{"a": 1}\n', ["."], "line 1 of results.jsonl is no record of a run"),
        ('{"key": {}}\n', ["."], "results.jsonl: holds no results of a benchmark"),
        ("", ["results.jsonl"], "results.jsonl: holds no results of a benchmark"),
        (
            json.dumps(_record("photo", "plain", 0, clean=1.0, shifted=1.0)),
            [".", "--tables", "3"],
            "hold none of the tables 3",
        ),
    ],
)
def test_report_names_what_is_wrong_with_its_sources(content, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "results.jsonl").write_text(content)
    monkeypatch.setattr(sys, "argv", ["report.py", *arguments])
    with pytest.raises(SystemExit, match=re.escape(message)):
        tyro.cli(report.main)


def test_only_the_named_runs_are_forgotten(tmp_path):
    store = ResultsStore(tmp_path / "results.jsonl")
    records = [_record("a", "plain", seed, b=1.0) for seed in range(3)]
    for record in records:
        store.add(record)
    store.forget([records[1]["key"]])
    assert store.records() == [records[0], records[2]]
    assert store.found(record["key"] for record in reversed(records)) == [records[2], records[0]]
    store.forget(record["key"] for record in records)
    assert store.records() == []
    store.forget([records[0]["key"]])  # nothing there to forget
