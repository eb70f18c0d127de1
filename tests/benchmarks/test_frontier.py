"""Accuracy against cost: the forms that are compared, and the plot of what two benchmarks have measured."""

import json
import sys

import frontier
import pytest
from purifybench import frontier as forms
from purifybench.results import ResultsStore

from wdpurify import BalancedStrength


def _record(task, row, seed, oracle):
    key = {"task": task, "row": row, "settings": {"seed": seed, "backbone": "small-bn"}}
    return {"key": key, "accuracy": {"validation": 99.0, "oracle": oracle}}


@pytest.fixture
def measured(tmp_path):
    """Two seeds of one task, a cost of every form, and a run on another network."""
    store = ResultsStore(tmp_path / "results.jsonl")
    for seed, shift in ((1, -1.0), (2, 1.0)):
        store.add(_record("colour", "plain", seed, 40.0 + shift))
        store.add(_record("colour", "upper bound", seed, 90.0 + shift))
        for number, form in enumerate(forms.FORMS):
            store.add(_record("colour", forms.form_name(*form), seed, 60.0 + number + shift))
    other = _record("colour", "plain", 1, 0.0)
    other["key"]["settings"]["backbone"] = "small-gn"
    store.add(other)
    cost = {forms.form_name(*form): {"ratio": 1.1 + 0.1 * number} for number, form in enumerate(forms.FORMS)}
    (tmp_path / "cost.json").write_text(json.dumps({"result": {"resnet18": {"plain loop": {"ratio": 1.0}} | cost}}))
    return tmp_path


def _start(monkeypatch, folder, *arguments):
    paths = ["--accuracy", f"{folder}/results.jsonl", "--cost", f"{folder}/cost.json", "--out", f"{folder}/out.png"]
    monkeypatch.setattr(sys, "argv", ["frontier.py", *paths, *arguments])
    frontier.main()


def test_the_plot_and_the_table_join_accuracy_and_cost_by_form(measured, monkeypatch):
    _start(monkeypatch, measured)
    assert (measured / "out.png").stat().st_size > 10_000
    lines = (measured / "out.md").read_text().splitlines()
    assert lines[2] == "| 8 of 64 rows, every step | 1.10x | 40 |"  # 20 of 50 points
    assert lines[-1] == "| 64 of 64 rows, every 3 steps | 1.90x | 56 |"
    assert len(lines) == 2 + len(forms.FORMS)


def test_what_is_missing_is_named(measured, monkeypatch):
    with pytest.raises(SystemExit, match="nothing to plot"):
        _start(monkeypatch, measured, "--accuracy-backbone", "resnet18")
    with pytest.raises(SystemExit, match=r"there is no .*absent\.json"):
        _start(monkeypatch, measured, "--cost", f"{measured}/absent.json")


@pytest.mark.parametrize(("task_rows", "rows"), [(64, (8, 21, 64)), (32, (4, 10, 32)), (4, (1, 1, 4))])
def test_auxiliary_rows_are_in_proportion_to_the_tasks(task_rows, rows):
    made = forms.forms(task_rows)
    found = tuple(made[forms.form_name(*form)].keywords["batch_size"] for form in ((8, 1), (21, 1), (64, 3)))
    assert found == rows
    assert {form.keywords["strength"] / form.keywords["every"] for form in made.values()} == {forms.STRENGTH}


def test_the_strength_of_the_forms_is_the_librarys():
    assert BalancedStrength().value == forms.STRENGTH
