"""Names of earlier tables are still taken: by commands, and in stored runs."""

import json
import re
import shlex
from pathlib import Path

import digits
import pytest
from purifybench.former_names import FORMER_NAMES, present_name, with_present_names
from purifybench.methods import FACE_METHODS, METHODS, OWN_ROWS_METHODS, PICTURE_METHODS
from purifybench.paper_tables import SMILING
from purifybench.results import ResultsStore


def test_every_former_name_leads_to_a_method_and_none_is_a_present_one():
    present = {*METHODS, *FACE_METHODS, *OWN_ROWS_METHODS, *PICTURE_METHODS, SMILING}
    assert set(FORMER_NAMES.values()) <= present
    assert not set(FORMER_NAMES) & present
    assert len(set(FORMER_NAMES.values())) == len(FORMER_NAMES)


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("AMTL, oracle weight", "adversarial multi-task, oracle weight"),
        ("PL all groups (default), auxiliary faces: other", "wdpurify, auxiliary faces: other"),
        ("PL and batches, balanced, erased at the end", "wdpurify, balanced, erased at the end"),
        ("PL, balanced", "wdpurify, balanced rows"),
        ("wdpurify, balanced", "wdpurify, balanced"),
        ("upper bound", "upper bound"),
        ("PL", "PL"),
    ],
)
def test_rows_are_named_after_their_methods(former, now):
    assert present_name(former) == now


def test_commands_take_former_names():
    given = digits.Arguments(methods=("PL all groups (default)", "upper bound"))
    digits.check(with_present_names(given))
    assert with_present_names(given).methods == ("wdpurify", "upper bound")


def test_stored_runs_are_found_under_the_present_names(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"key": {"method": "AMTL", "row": "AMTL, oracle weight"}, "accuracy": {}}) + "\n")
    key = {"method": "adversarial multi-task", "row": "adversarial multi-task, oracle weight"}
    assert [record["key"] for record in ResultsStore(path).found([key])] == [key]


def test_no_command_of_a_page_uses_a_former_name():
    root = Path(__file__).parents[2]
    for page in [*root.glob("benchmarks/*.md"), *root.glob("docs/**/*.md"), *root.glob("benchmarks/*.py")]:
        for given in re.findall(r"--(?:methods|variants) ([^`\n]*)", page.read_text()):
            names = shlex.split(given.replace("\\", ""))
            assert not set(names) & set(FORMER_NAMES), page
