"""The picture of the features of digits on coloured ground, as a user starts it."""

import re
import sys

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("tyro")
import feature_picture


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run the script with few steps and rows."""

    def run(*arguments):
        few = ["--steps", "2", "--max-rows", "150", "--permutations", "2", "--projection", "pca"]
        monkeypatch.setattr(sys, "argv", ["feature_picture.py", *few, "--out", str(tmp_path / "new" / "f.png"), *arguments])
        feature_picture.main()
        return tmp_path / "new" / "f.png"

    return run


def test_a_plain_and_a_purified_network_are_drawn(start, capsys):
    assert start().stat().st_size > 10_000
    out = capsys.readouterr().out
    assert re.search(r"^plain: colour \d+\.\d % ", out)
    assert re.search(r"^purified: colour \d+\.\d % ", out, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps: must be at least 1, got 0"),
        (["--max-rows", "0"], "--max-rows: must be at least 1, got 0"),
        (["--bias", "2"], "--bias: must be in [0, 1], got 2.0"),
    ],
)
def test_wrong_arguments_are_named(start, arguments, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        start(*arguments)
