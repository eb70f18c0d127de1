"""The digit benchmark: its run loop, methods and networks, and that newcomers, methods and data sets, need one file each."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import digits
import pytest
import torch
from killed_run import whole_and_resumed
from purifybench.backbones import BACKBONES, build_network
from purifybench.jobs import Job, Plan, run_jobs
from purifybench.methods import METHODS, Plain, candidates
from purifybench.results import ResultsStore
from purifybench.tasks import TASKS, Auxiliary, Split, Task, biased_colour, needed_options, options_for
from purifybench.training import Settings, train
from torch.testing import assert_close

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def colour():
    return biased_colour.build(seed=0)


@pytest.mark.filterwarnings("ignore::wdpurify.exceptions.ForeignHeadWarning")  # A few steps train no head.
@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_trains_and_resumes_to_the_same_weights(name, colour, tmp_path, monkeypatch):
    settings = Settings(steps=6, batch_size=32)
    monkeypatch.setattr("purifybench.training.CHECKPOINT_EVERY", 3)
    monkeypatch.setattr("purifybench.training.FIGURES_EVERY", 2)
    whole, resumed = whole_and_resumed(colour, METHODS[name], settings, tmp_path / "run.pt")
    assert resumed.accuracy == whole.accuracy
    assert resumed.component_shares == whole.component_shares
    for first, second in zip(resumed.figures, whole.figures, strict=True):
        assert_close(first, second, rtol=0, atol=0, equal_nan=True)


def test_choosing_an_option_does_not_read_the_test_sets(colour):
    unreadable = replace(colour, tests={"clean": None, "shifted": None})
    outcome = train(unreadable, Plain, Settings(steps=1), device=CPU, test=False)
    assert set(outcome.accuracy) == {"validation", "oracle"}


@pytest.mark.parametrize("name", ["small-bn", "small-gn", "small-ln", "resnet18", "senet", "mobilenetv2", "shufflenetv2"])
def test_backbones_have_128_features_and_do_not_shrink_small_images_to_nothing(name):
    network = build_network(name, 10)
    images = torch.randn(2, 3, 32, 32)
    features = network.features(images)
    assert features.shape == (2, 128)
    network(images).sum().backward()
    assert network.features(images).std(0).max() > 0


def test_every_backbone_of_the_paper_is_there():
    paper = {"resnet18", "vgg11", "densenet121", "senet", "efficientnet", "mobilenetv2", "shufflenetv2"}
    assert paper <= set(BACKBONES)
    with pytest.raises(ValueError, match="`backbone` must be one of small-bn"):
        build_network("resnet19", 10)


class _Newcomer(Plain):
    """A method in one small class: half the loss."""

    def loss(self, images, labels):
        return 0.5 * super().loss(images, labels)


def test_a_newcomers_method_needs_one_class(colour):
    outcome = train(colour, _Newcomer, Settings(steps=2), device=CPU)
    assert set(outcome.accuracy) == {"validation", "clean", "shifted"}


class _Scaled(Plain):
    """A newcomer that wants two options tuned."""

    GRID: ClassVar = {"scale": (1.0, 0.0, 0.5), "bend": (1, 2)}

    def __init__(self, run, *, scale=1.0, bend=1):
        super().__init__(run)
        self.scale = scale

    def loss(self, images, labels):
        return self.scale * super().loss(images, labels)


def test_a_grid_has_all_its_points_but_for_options_that_are_given():
    assert candidates(Plain) == []
    assert candidates(METHODS["gradient reversal"]) == [(("weight", weight),) for weight in (0.03, 0.1, 0.3, 1.0)]
    points = [{"bend": bend, "scale": scale} for bend in (1, 2) for scale in (1.0, 0.0, 0.5)]
    assert [dict(options) for options in candidates(_Scaled)] == points
    assert candidates(partial(_Scaled, scale=0.5)) == [(("bend", 1),), (("bend", 2),)]
    assert candidates(partial(_Scaled, scale=0.5, bend=1)) == []


@pytest.fixture
def tuned(tmp_path):
    """A plan with two tuned methods, and its store, where the runs of the tuning seeds are already."""
    methods = {"plain": Plain, "scaled": _Scaled, "given": partial(_Scaled, scale=0.5)}
    plan = Plan("tiny", methods, ("small-bn",), (0,), Settings(steps=1), tuning_seeds=(1001, 1002))
    store = ResultsStore(tmp_path / "results.jsonl")
    for job in plan.tuning_jobs():
        options = dict(job.options)
        change = 1.0 if job.settings.seed == 1001 else -1.0
        accuracy = {"validation": 50.0 + change - options.get("scale", 0.0), "oracle": 50.0 + change + options["bend"]}
        store.add({"key": job.key(), "accuracy": accuracy})
    return plan, store


def test_every_method_with_a_grid_is_tuned_by_validation_rows_and_by_the_oracle(tuned):
    plan, store = tuned
    assert len(store.records()) == 2 * (6 + 2)
    assert not any(job.test for job in plan.tuning_jobs())
    chosen = plan.chosen_options(store)
    best = {where: dict(options) for where, options in chosen.items()}
    assert best == {
        ("small-bn", "scaled", "validation"): {"bend": 1, "scale": 0.0},  # either bend does as well: the first one
        ("small-bn", "scaled", "oracle"): {"bend": 2, "scale": 1.0},
        ("small-bn", "given", "validation"): {"bend": 1},
        ("small-bn", "given", "oracle"): {"bend": 2},
    }
    rows = [(job.row, dict(job.options)) for job in plan.reported_jobs(chosen)]
    assert rows == [
        ("plain", {}),
        ("scaled", {"bend": 1, "scale": 0.0}),
        ("scaled, oracle bend and scale", {"bend": 2, "scale": 1.0}),
        ("given", {"bend": 1}),
        ("given, oracle bend", {"bend": 2}),
    ]


def test_runs_of_the_tuned_opponent_are_found_in_stores_of_older_versions():
    """A change of this key would make `--resume` do all runs of stored benchmarks anew."""
    plan = digits.plan("photo", digits.Arguments(seeds=(3,), methods=("gradient reversal",)))
    real = {"train": None, "test": [], "aux": None, "blend_photos": False, "image_column": "image", "label_column": "label"}
    stored = {
        "task": "photo",
        "method": "gradient reversal",
        "settings": {"backbone": "small-bn", "steps": 400, "batch_size": 64, "lr": 0.01, "seed": 1001},
        "options": [["weight", 0.03]],
        "row": "gradient reversal",
        "test": False,
        "data": {"bias": 0.95, "image_size": None, "real": {**real, "group_column": None, "rows": 20_000}},
    }
    assert next(iter(plan.tuning_jobs())).key() == stored
    chosen = {("small-bn", "gradient reversal", "oracle"): (("weight", 0.3),)}
    *_, reported = plan.reported_jobs(chosen)
    settings = {**stored["settings"], "seed": 3}
    changed = {"settings": settings, "options": [["weight", 0.3]], "row": "gradient reversal, oracle weight", "test": True}
    assert reported.key() == {**stored, **changed}


def _newcomers_data(*, seed, image_size=8, bias=0.5):
    """A data set in one small function, whose options are those of the benchmark."""
    images = torch.full((40, 3, image_size, image_size), round(100 * bias), dtype=torch.uint8)
    images[:20] += seed
    split = Split(images, torch.arange(40) % 2)
    return Task("newcomer", 2, split, split, {"clean": split, "shifted": split}, Auxiliary(images, ["a", "b"] * 20, fixed="a"))


def test_a_newcomers_data_set_needs_a_line_in_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TASKS, "newcomer", _newcomers_data)
    options = ["--methods", "upper bound", "--seeds", "0", "1", "--steps", "1", "--workers", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["digits.py", "--tasks", "newcomer", *options])
    digits.main()
    report = json.loads((tmp_path / "newcomer-small-bn" / "report.json").read_text())
    assert [row["method"] for row in report["rows"]] == ["plain", "upper bound"]
    assert {path.name for path in tmp_path.glob("*-small-bn")} == {"newcomer-small-bn"}


def test_a_builder_gets_the_options_that_it_names_and_lacks():
    options = {"bias": 0.25, "image_size": None, "train": "elsewhere", "cache": None}
    assert options_for(_newcomers_data, options) == {"bias": 0.25}
    assert options_for(_newcomers_data, options | {"image_size": 6}) == {"bias": 0.25, "image_size": 6}
    assert options_for(TASKS["ck-like"], options) == {"bias": 0.25}  # the table says already what to train on
    assert needed_options(_newcomers_data) == []
    assert needed_options(TASKS["real"]) == ["real"]
    assert needed_options(TASKS["ck+"]) == ["folders", "celeba", "image_size"]


def test_processes_share_all_jobs_whatever_another_has_finished(tmp_path, monkeypatch):
    store = ResultsStore(tmp_path / "results.jsonl")
    jobs = [Job("tiny", "plain", Settings(steps=1, batch_size=8, seed=seed)) for seed in range(4)]
    for rank in (0, 1):  # one after the other: the second finds the first one's records already there
        state = SimpleNamespace(
            process_index=rank, num_processes=2, is_main_process=False, device=CPU, wait_for_everyone=lambda: None
        )
        monkeypatch.setattr("purifybench.jobs.PartialState", lambda state=state: state)
        run_jobs(jobs, _tiny_task, store, workers=1, title="test")
    assert sorted(record["key"]["settings"]["seed"] for record in store.records()) == [0, 1, 2, 3]


def _tiny_task(job):
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(job.settings.seed))
    split = Split(images[:20], torch.arange(20) % 2)
    return Task(job.task, 2, split, split, {"clean": split, "shifted": split}, Auxiliary(images, ["a", "b"] * 20, fixed="a"))


def test_finished_runs_are_not_run_again_and_a_cut_line_is_passed_over(tmp_path):
    store = ResultsStore(tmp_path / "results.jsonl")
    jobs = [Job("tiny", "plain", Settings(steps=1, batch_size=8, seed=seed)) for seed in range(3)]
    run = partial(run_jobs, build_task=_tiny_task, workers=1, title="test")
    run(jobs[:2], store=store)
    with store.path.open("a") as file:
        file.write('{"key": {"task": "ti')  # what a kill in the middle of writing leaves
    first = store.records()
    run(jobs, store=store)
    assert store.records()[:2] == first
    assert len(store.records()) == 3


def test_a_batch_size_that_is_named_is_taken():
    for task, usual in (("real", 128), ("colour", 64)):
        sizes = [digits.plan(task, digits.Arguments(batch_size=size)).settings.batch_size for size in (None, 7)]
        assert sizes == [usual, 7]


METHODS_OF_THE_JOB = ("gradient reversal", "upper bound", "wdpurify")


def _main_job(monkeypatch, out, *arguments):
    """The main job in this process, short and with one tuning seed."""
    options = ["--seeds", "0", "--steps", "6", "--workers", "1", "--out", str(out), "--methods", *METHODS_OF_THE_JOB]
    monkeypatch.setattr(digits, "TUNING_SEEDS", (1001,))
    monkeypatch.setattr(sys, "argv", ["digits.py", *options, *arguments])
    digits.main()


def test_main_job_writes_table_json_and_figures_and_resumes(tmp_path, monkeypatch, capsys):
    _main_job(monkeypatch, tmp_path)
    for task in ("colour", "photo"):
        folder = tmp_path / f"{task}-small-bn"
        report = json.loads((folder / "report.json").read_text())
        assert {"commit", "versions", "machine", "arguments", "rows"} <= report.keys()
        assert {row["method"] for row in report["rows"]} >= {*METHODS_OF_THE_JOB, "plain"}
        chosen = {(one["method"], one["by"]) for one in report["chosen"]}
        assert chosen == {("gradient reversal", by) for by in ("validation", "oracle")}
        written = (folder / "report.md").read_text()
        assert written.count("\n|") >= 6
        found = next(row["looseness"]["mean"] for row in report["rows"] if row["method"] == "wdpurify")
        assert found >= 1.0
        assert re.search(rf"Theorem 1 bounds the error on the shifted set, .* by {found:.1f}.* times what it is", written)
        assert all((folder / name).stat().st_size > 5000 for name in ("accuracy.png", "critic.png", "components.png"))
    first = (tmp_path / "results.jsonl").read_text()
    _main_job(monkeypatch, tmp_path, "--resume")
    assert (tmp_path / "results.jsonl").read_text() == first
    _main_job(monkeypatch, tmp_path)
    again = (tmp_path / "results.jsonl").read_text()
    assert again != first  # at least the times of the steps
    assert again.count("\n") == first.count("\n")


@pytest.mark.parametrize(
    ("launcher", "methods"),
    [
        ([], ["upper bound"]),
        pytest.param(
            ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"],
            ["upper bound", "gradient reversal"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["two workers", "accelerate launch"],
)
def test_main_job_on_two_processes(tmp_path, launcher, methods):
    options = ["--tasks", "photo", "--seeds", "0", "--steps", "2", "--workers", "2", "--out", str(tmp_path)]
    command = [sys.executable, *launcher, str(ROOT / "benchmarks" / "digits.py"), *options, "--methods", *methods]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=540)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "photo-small-bn" / "report.json").read_text())
    assert {row["method"] for row in report["rows"]} >= {*methods, "plain"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbones", "resnet19"], "--backbones: 'resnet19' is none of 'small-bn'"),
        (["--methods", "magic"], "--methods: 'magic' is none of 'plain'"),
        (["--tasks", "ck+"], "--tasks: 'ck\\+' is none of 'colour', 'photo', 'shapes', 'real'$"),
        (["--tasks", "real"], "--tasks real needs --train"),
        (["--seeds"], "--seeds: name at least one"),
        (["--backbones"], "--backbones: name at least one"),
        (["--steps", "0"], "--steps: must be at least 1, got 0"),
        (["--workers", "0"], "--workers: must be at least 1, got 0"),
        (["--image-size", "0"], "--image-size: must be at least 1, got 0"),
        (["--bias", "1.5"], r"--bias: must be in \[0, 1\], got 1.5"),
        (["--train", "somewhere"], "--train needs --aux"),
        (["--aux", "somewhere"], "--aux and --test need --train"),
    ],
)
def test_wrong_arguments_are_named_before_anything_runs(arguments, message, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["digits.py", *arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=message):
        digits.main()
    assert not (tmp_path / "out").exists()
