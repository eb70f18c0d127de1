"""The face benchmark as a user starts it: arguments, tables, what is run again and what is not."""

import csv
import re
import sys

import fer
import pytest
import report
import torch
import tyro
from purifybench import jobs
from purifybench.faces import sets
from purifybench.results import ResultsStore
from purifybench.tasks import TASKS

pytest.importorskip("dicebear")
pytest.importorskip("resvg_py")

FEW = ["--steps", "3", "--image-size", "16", "--workers", "1"]


@pytest.fixture
def start(tmp_path, faces_cache, monkeypatch):
    """Run `fer.py` on small sets, with a folder for results of its own."""
    monkeypatch.setattr(sets, "SPLITS", {"train": 36, "validation": 12, "test": 24})
    monkeypatch.setattr(sets, "AUXILIARY_ROWS", 180)
    monkeypatch.setattr(fer, "BIASES", (0.0, 1.0))
    monkeypatch.setattr(fer, "TUNING_SEEDS", (0,))  # faces of one seed less to draw

    def run(*arguments):
        places = ["--cache", str(faces_cache), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["fer.py", *FEW, *places, *arguments])
        fer.main()
        return tmp_path / "out"

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbones", "alexnett"], "--backbones: 'alexnett' is none of"),
        (["--methods", "PL"], "--methods: 'PL' is none of"),
        (["--sets", "mmi"], "--sets: 'mmi' is none of"),
        (["--ck", "a", "--mmi", "b", "--celeba", "c", "--sets", "mmi-like"], "--sets names cartoon sets"),
        (["--bias", "1.5"], "--bias: must be in [0, 1], got 1.5"),
        (["--image-size", "4"], "--image-size: must be at least 16, got 4"),
        (["--backbones", "alexnet"], "--image-size: 32 is too small for alexnet; as published it is 224"),
        (["--steps", "0"], "--steps: must be at least 1, got 0"),
        (["--seeds"], "--seeds: name at least one"),
        (["--ck", "somewhere"], "real faces need at least two of --ck, --mmi and --oulu"),
        (["--celeba", "somewhere"], "real faces need at least two of --ck, --mmi and --oulu"),
        (["--ck", "a", "--mmi", "b", "--celeba", "c", "--table", "bias"], "--table bias and --auxiliary are for cartoon faces"),
        (["--ck", "a", "--mmi", "b", "--celeba", "c"], "a: no folder for ck+"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fer.py", *arguments])
    with pytest.raises(SystemExit, match=re.escape(message)):
        fer.main()


def test_sets_are_those_asked_for_and_tested_on_all():
    chosen = fer.plans(fer.Arguments(sets=("mmi-like",), methods=("adversarial multi-task",)))
    assert {plan.task for plan in chosen} == {"mmi-like"}
    assert {plan.task for plan in fer.plans(fer.Arguments())} == set(sets.TASK_SETS)


def test_table_1_has_every_pair_the_papers_figures_and_other_auxiliary_faces(start):
    methods = ["--methods", "adversarial multi-task", fer.DEFAULT, "upper bound"]
    out = start("--seeds", "0", "1", *methods, "--auxiliary", "same", "other")
    folder = out / "faces-small-bn-bias-0.7-3-steps"
    text = (folder / "report.md").read_text()
    assert text.count("\n| ck-like → ") == 2
    header = next(line for line in text.splitlines() if line.startswith("| train → test"))
    for name in ("adversarial multi-task, oracle weight", f"{fer.DEFAULT}, auxiliary faces: other", "paper: AMTL", "paper: PL"):
        assert f"| {name} |" in header
    assert "| won/tied/lost |" in text
    assert "averages over its three networks" in text
    assert {path.name for path in folder.glob("*.png")} >= {"accuracy-ck-like.png", "components-oulu-like.png"}
    assert (folder / "provenance.json").exists()
    with (out / "accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["test"] for row in rows} == {"validation", "within", "unbiased", "ck-like", "mmi-like", "oulu-like"}
    assert {row["auxiliary"] for row in rows} == {"same", "other"}


def test_tables_share_their_runs_and_only_those_asked_for_are_made_anew(start, monkeypatch, capsys):
    out = start("--seeds", "0", "--methods", fer.DEFAULT)
    before = {record["key"]["row"]: record for record in ResultsStore(out / "results.jsonl").records()}
    made = []
    monkeypatch.setattr(jobs, "train", lambda *a, _train=jobs.train, **k: made.append(k) or _train(*a, **k))
    start("--seeds", "0", "--table", "3", "--resume")
    assert len(made) == 3  # smiling, on each set
    text = (out / "faces-small-bn-bias-0.7-3-steps" / "report.md").read_text()
    assert text.startswith("Table III analogue")
    assert "| wdpurify (smiling) |" in text
    assert "| paper: PL (smiling) |" in text
    made.clear()
    start("--seeds", "0", "--table", "3")
    assert len(made) == 9
    after = ResultsStore(out / "results.jsonl").records()
    assert {record["key"]["row"] for record in after} == {*before, "wdpurify (smiling)"}
    assert len(after) == 9


def test_the_upper_bound_of_the_bias_figure_is_run_at_its_two_ends_alone():
    wanted = {bias: fer.plans(fer.Arguments(table="bias", bias=bias)) for bias in fer.BIASES}
    methods = {bias: {name for plan in plans for name in plan.methods} for bias, plans in wanted.items()}
    both, inner = {fer.BASELINE, fer.DEFAULT}, fer.BIASES[1:-1]
    assert methods == {0.0: both | {fer.UPPER_BOUND}, **dict.fromkeys(inner, both), 1.0: both | {fer.UPPER_BOUND}}


def test_the_upper_bound_and_its_test_are_the_same_at_every_bias(start, faces_cache):
    tasks = [TASKS["ck-like"](seed=0, image_size=16, cache=faces_cache, bias=bias) for bias in (0.0, 0.5, 1.0)]
    for other in tasks[1:]:
        assert torch.equal(other.upper.images, tasks[0].upper.images)
        assert torch.equal(other.tests["unbiased"].images, tasks[0].tests["unbiased"].images)
        assert not torch.equal(other.train.images, tasks[0].train.images)


def test_the_bias_figure_and_the_report_made_of_all_runs(start, tmp_path, monkeypatch, capsys):
    out = start("--seeds", "0", "--table", "bias")
    folder = out / "bias-small-bn-3-steps"
    text = (folder / "report.md").read_text()
    assert text.count("\n| 0.0 | ") == text.count("\n| 1.0 | ") == 3
    assert {path.name for path in folder.glob("*.png")} == {f"bias-{name}.png" for name in sets.TASK_SETS}
    start("--seeds", "0", "--table", "3")
    monkeypatch.setattr(sys, "argv", ["report.py", str(out), "--out", str(tmp_path / "report")])
    tyro.cli(report.main)
    assert "27 runs" in re.sub(r"\s+", " ", capsys.readouterr().out)
    found = {path.parent.name for path in (tmp_path / "report").rglob("report.md")}
    assert found == {f"faces-small-bn-bias-{bias}-3-steps" for bias in (0.0, 0.7, 1.0)} | {"bias-small-bn-3-steps"}
    assert (tmp_path / "report" / "bias-small-bn-3-steps" / "report.md").read_text().count("\n| 0.7 | ") == 3
