"""The audit of cartoon faces as a user starts it."""

import json
import re
import sys

import pytest
from purifybench.faces import sets

pytest.importorskip("sklearn")
pytest.importorskip("dicebear")
pytest.importorskip("resvg_py")
import audit_faces


@pytest.fixture
def start(tmp_path, faces_cache, monkeypatch):
    """Run the script on small sets."""
    monkeypatch.setattr(sets, "SPLITS", {"train": 60, "validation": 6, "test": 24})
    monkeypatch.setattr(sets, "AUXILIARY_ROWS", 200)
    monkeypatch.setattr(audit_faces, "HELD_OUT", 100)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["audit_faces.py", "--cache", str(faces_cache), "--out", str(tmp_path), *arguments])
        audit_faces.main()
        return tmp_path

    return run


def test_it_ranks_labels_and_measures_what_is_left(start, capsys):
    out = start("--seeds", "1", "--steps", "3", "--repeats", "2", "--task-steps", "2", "--permutations", "3")
    text = (out / "report.md").read_text()
    assert len(re.findall(r"^\| 1 \| ", text, flags=re.MULTILINE)) == 2
    assert "| seed | plain | purified of hair | control: shuffled |" in text
    found = json.loads((out / "audit-1.json").read_text())
    assert sorted(entry["column"]["name"] for entry in found["columns"]) == ["hair", "smiling", "style"]
    assert found["settings"]["evaluation rows"] == 48
    assert (out / "audit.png").stat().st_size > 0
    assert text.strip() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "ck+"], "--train: 'ck+' is none of 'ck-like'"),
        (["--seeds"], "--seeds: name at least one"),
        (["--bias", "-1"], "--bias: must be in [0, 1], got -1.0"),
    ],
)
def test_wrong_arguments_are_named(start, arguments, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        start(*arguments)
