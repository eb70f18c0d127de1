"""The benchmark that asks whether `separation` tells the truth: what it runs, and what it makes of other benchmarks' runs."""

import json
import sys

import pytest
import separation


def _start(monkeypatch, out, *arguments):
    options = ["--tasks", "photo", "--seeds", "0", "--workers", "1", "--out", str(out), *arguments]
    monkeypatch.setattr(sys, "argv", ["separation.py", *options])
    monkeypatch.setattr(separation, "STEPS", {"photo": 60})
    separation.main()


def test_a_watched_label_that_can_be_told_reads_above_chance_and_a_shuffled_one_leaks_less(monkeypatch, tmp_path):
    store = tmp_path / "styles" / "more.jsonl"
    store.parent.mkdir()
    record = {
        "key": {"task": "pictures", "row": "PL"},
        "figures": [{"separation": 0.5, "separation by chance": 0.25}],
        "measures": {"leakage": 40.0},
    }
    other = record | {"measures": {}}
    shuffled = record | {"key": {"task": "pictures", "row": "control: shuffled groups"}}
    store.write_text("".join(f"{json.dumps(one)}\n" for one in (record, other, shuffled)))
    _start(monkeypatch, tmp_path, "--more", f"{store}:5")
    lines = (tmp_path / "separation.md").read_text().splitlines()
    found = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in lines[2:]}
    assert list(found) == ["photo, watched", "photo, purified", "photo, labels shuffled, watched", "styles, PL"]
    numbers = {name: [float(cell.split(" ")[0]) for cell in cells] for name, cells in found.items()}
    assert numbers["photo, watched"][0] > numbers["photo, watched"][1]
    assert numbers["photo, watched"][2] > 50 > numbers["photo, labels shuffled, watched"][2]
    assert numbers["styles, PL"] == [0.5, 0.25, 25.0]  # 40 % where 20 % is chance: a quarter of the way
    assert (tmp_path / "separation.png").stat().st_size > 10_000


@pytest.mark.parametrize("more", ["absent.jsonl:4", "4", "here.jsonl", "here.jsonl:1", "here.jsonl:many"])
def test_a_store_that_cannot_be_added_is_named_before_anything_runs(more, monkeypatch, tmp_path):
    (tmp_path / "here.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="--more: expected FILE:GROUPS"):
        _start(monkeypatch, tmp_path / "out", "--more", more)
    assert not (tmp_path / "out").exists()
