"""The comparison of variants that the defaults come from: its tasks, its rows in proportion, and what it leaves unread."""

import json
import sys

import choose_defaults
import pytest
from purifybench.methods import PICTURE_METHODS
from purifybench.methods.purified import BATCH_SIZE
from purifybench.picture_options import FineTuning


@pytest.fixture
def start(monkeypatch, tmp_path):
    def start(*arguments):
        paths = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--workers", "1"]
        monkeypatch.setattr(sys, "argv", ["choose_defaults.py", *paths, *arguments])
        choose_defaults.main()
        return [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]

    return start


@pytest.mark.parametrize(("task_rows", "drawn"), [(64, (32, 21, 64)), (32, (16, 10, 32))])
def test_auxiliary_rows_of_every_variant_are_in_proportion_to_the_tasks(task_rows, drawn):
    made = choose_defaults.variants(task_rows)
    some = ("keep 0.7", "strength 1.0, fade 0.4, 21 rows", "64 of 64 rows, every 3 steps")
    assert tuple(made[name].keywords["batch_size"] for name in some) == drawn
    assert made["default"].keywords == {"batch_size": BATCH_SIZE * task_rows // 64}
    assert {name for name, make in made.items() if "batch_size" not in getattr(make, "keywords", {})} == {
        "plain",
        "upper bound",
    }


def test_the_default_on_pictures_is_that_of_the_picture_benchmark():
    default = choose_defaults.variants(FineTuning().batch_size)["default"]
    assert default.keywords == PICTURE_METHODS["wdpurify"].keywords


def test_variants_train_on_digits_and_on_pictures_of_ones_own_and_read_no_test(start, parquet, monkeypatch, tmp_path):
    monkeypatch.setitem(choose_defaults.TUNING_SEEDS, "colour", (1001,))
    monkeypatch.setitem(choose_defaults.TUNING_SEEDS, "pictures", (1001, 1002))
    monkeypatch.setitem(choose_defaults.STEPS, "colour", 2)
    own = ["--data", str(parquet), "--class-column", "shade", "--nuisance-column", "colour", "--image-size", "16"]
    rows = ["--rows", "40", "--auxiliary-rows", "16", "--validation-rows", "16", "--test-rows", "40"]
    wanted = ["--variants", "plain", "default", "--backbones", "small-gn", "--steps", "2"]
    found = start(*own, *rows, *wanted, "--tasks", "colour", "pictures")
    assert all(record["accuracy"].keys() == {"validation", "oracle"} for record in found)
    made = [(record["key"]["task"], record["key"]["settings"]["backbone"]) for record in found]
    assert made == [("colour", "small-gn")] * 2 + [("pictures", "small-bn")] * 4
    assert found[-1]["key"]["settings"]["recipe"]["optimizer"] == "adamw"
    tables = {path.stem: path.read_text().splitlines()[0] for path in (tmp_path / "out").glob("*.md")}
    assert tables == {
        "small-gn": "| variant | colour, clean | colour, shifted |",
        "pictures-small-bn": "| variant | pictures, clean | pictures, shifted |",
    }
    assert start(*own, *rows, *wanted, "--resume") == found  # pictures alone, and all there


def test_what_is_unknown_is_refused_before_anything_runs(start, tmp_path):
    for arguments, message in [
        (["--tasks", "colours"], "--tasks"),
        (["--variants", "best"], "--variants"),
        (["--data", str(tmp_path)], "go together"),
    ]:
        with pytest.raises(SystemExit, match=message):
            start(*arguments)
    assert not (tmp_path / "out").exists()
