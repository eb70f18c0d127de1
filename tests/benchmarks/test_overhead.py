"""The cost per step: which methods are compared, on which networks, and what is written."""

import json
import sys

import overhead
import pytest
import torch
from purifybench import frontier as forms
from purifybench.methods import METHODS


def test_the_cost_of_the_forms_is_measured_in_place_of_other_methods():
    assert list(overhead.compared(64, frontier=True)) == ["plain loop", *forms.forms()]
    usual = overhead.compared(48, frontier=False)
    shares = ("a sixth", "a third", "half")
    assert [usual[f"wdpurify, {share}"].keywords["batch_size"] for share in shares] == [8, 16, 24]


@pytest.fixture
def start(monkeypatch, tmp_path):
    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["overhead.py", "--out", str(tmp_path / "cost.json"), *arguments])
        overhead.main()
        return json.loads((tmp_path / "cost.json").read_text())["result"]

    return start


def test_networks_of_the_benchmarks_and_of_ones_own_are_measured_side_by_side(start):
    own = "test_picture_networks:Tiny"
    found = start("--backbones", "small-gn", own, "--batch-size", "24", "--image-size", "16", "--rounds", "1")
    assert list(found) == ["small-gn", own]
    for rows in found.values():
        assert rows["plain loop"]["ratio"] == 1
        assert all(row["milliseconds"] > 0 and row["low"] <= row["ratio"] <= row["high"] for row in rows.values())


def test_rows_of_a_table_are_measured_and_the_calls_of_operators_are_those_of_a_step(start):
    rows = start("--backbones", "--benches", "table", "--rounds", "1")["table"]
    assert list(rows) == ["plain loop", "gradient reversal", "wdpurify"]
    plain, ours = rows["plain loop"]["operators"], rows["wdpurify"]["operators"]
    # Three layers forward and backward, loss and update of six tensors; and the auxiliary step.
    assert 60 < plain < 130
    assert plain + 300 < ours < plain + 800
    with overhead.OperatorCalls() as calls:
        torch.ones(2) + torch.ones(2)
    assert calls.count == 3


@pytest.mark.parametrize(("name", "width"), [("small-gn", 128), ("test_picture_networks:Tiny", 6)])
def test_what_is_measured_is_the_network_of_that_name(name, width):
    subject = overhead.random_pictures(name, overhead.Arguments(batch_size=6, image_size=16))
    turn = overhead.Turn(METHODS["plain"], subject, torch.device("cpu"))
    assert turn.method.network.head.in_features == width


def test_what_cannot_be_measured_is_named_at_once(start, tmp_path):
    for arguments, message in [
        (["--backbones", "resnet19"], "--backbones: `network` must be one of"),
        (["--backbones", "nowhere:made"], "--backbones: "),
        (["--benches", "nothing"], "--benches: must be among table, adult"),
        (["--benches", "adult"], "--benches: adult needs --adult"),
        (["--steps", "7"], "--steps: a multiple of six"),
    ]:
        with pytest.raises(SystemExit, match=message):
            start(*arguments)
    assert not (tmp_path / "cost.json").exists()
