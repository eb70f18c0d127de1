"""The benchmark that reads gradients below the features."""

import json

import below_features
import pytest


def test_each_run_is_read_at_the_parameters_and_as_told(tmp_path):
    runs = ("colour", "shapes, own rows, AdamW")
    below_features.main(runs, 12, tmp_path)
    found = json.loads((tmp_path / "below_features.json").read_text())["runs"]
    for name in runs:
        readings = found[name]["readings"]
        assert 4 < len(readings) <= 11  # the first step pulls nothing yet
        assert all(left > 0 and told > 0 for left, told in readings)
    assert (tmp_path / "below_features.md").read_text().count("\n| ") == 3
    with pytest.raises(SystemExit, match="--runs: 'none' is none of"):
        below_features.main(("none",))
