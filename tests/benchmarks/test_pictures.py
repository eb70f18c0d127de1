"""The picture benchmark: data as files and folders, fine-tuning, what is measured, and a run as a user starts it."""

import copy
import json
import re
import sys
from dataclasses import asdict, replace

import datasets
import pictures
import pytest
import report
import torch
import tyro
from coloured_pictures import build_pictures, write_folder
from purifybench import jobs
from purifybench.adapted import network_named
from purifybench.faces import sets
from purifybench.jobs import Job
from purifybench.measures import measures, worst_cell
from purifybench.methods import Plain
from purifybench.recipe import Recipe
from purifybench.results import ResultsStore
from purifybench.tasks import pictures as picture_task
from purifybench.tasks import to_float
from purifybench.tasks.cells import Sizes
from purifybench.training import Settings, _measures, train
from torch.testing import assert_close

CPU = torch.device("cpu")


def _cells(labels, groups):
    return torch.bincount(labels * 2 + groups, minlength=4).tolist()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # datasets leaves metadata.csv open
def test_parquet_files_and_image_folders_are_the_same_pictures(parquet, tmp_path):
    of_file, of_folder = build_pictures(parquet), build_pictures(write_folder(tmp_path))
    assert of_file.train.images.shape == (40, 3, 16, 16)
    assert _cells(of_file.train.labels, of_file.train.groups) == [19, 1, 1, 19]
    assert _cells(of_file.tests["unbiased"].labels, of_file.tests["unbiased"].groups) == [10] * 4
    assert len(of_file.tests["paired"].labels) == 20
    assert sorted(of_file.auxiliary.groups) == ["green"] * 8 + ["red"] * 8  # names sort as they do, not as they were written
    task_images = {image.numpy().tobytes() for image in torch.cat([of_file.train.images, of_file.tests["unbiased"].images])}
    assert not task_images & {image.numpy().tobytes() for image in of_file.auxiliary.images}
    assert of_folder.n_classes == of_file.n_classes == 2
    assert len(of_folder.train.labels) == 40


def test_two_files_are_one_set_and_values_can_be_chosen_in_their_order(parquet):
    sizes = Sizes(rows=80, auxiliary_rows=32, validation_rows=32, test_rows=80)
    both = build_pictures(parquet, parquet, sizes=sizes)
    assert len(both.train.labels) == 80
    turned = build_pictures(parquet, classes=("light", "dark"), nuisances=("red", "green"))
    red, light = turned.train.groups == 0, turned.train.labels == 0
    assert int((red & light).sum()) == 19
    assert turned.train.images[light].float().mean() > turned.train.images[~light].float().mean()


def test_missing_columns_and_values_are_named(parquet):
    with pytest.raises(ValueError, match="has no column 'size'; it has image, shade, colour"):
        build_pictures(parquet, class_column="size")
    with pytest.raises(ValueError, match="column 'colour' has no value 'blue'; it has green, red"):
        build_pictures(parquet, nuisances=("red", "blue"))


def test_rows_without_a_label_are_left_out():
    rows = {"number": [3, None, 10, 3], "name": [0, -1, 1, 1]}
    source = datasets.Dataset.from_dict(rows).cast_column("name", datasets.ClassLabel(names=["a", "b", "never"]))
    codes, names = picture_task.coded(source, "number", ())
    assert (codes.tolist(), names) == ([0, -1, 1, 0], ["3", "10"])
    codes, names = picture_task.coded(source, "name", ())
    assert (codes.tolist(), names) == ([0, -1, 1, 1], ["a", "b"])


def test_clipping_limits_the_step(parquet):
    task = build_pictures(parquet)
    moved = {}
    for clip in (None, 1e-6):
        torch.manual_seed(5)
        found = []

        class Watched(Plain):
            def loss(self, images, labels, found=found):
                found.append(self.network.head.bias.detach().clone())
                return super().loss(images, labels)

        recipe = Recipe("sgd", weight_decay=0.0, clip=clip)
        train(task, Watched, Settings(steps=2, lr=0.1, batch_size=8, recipe=recipe), device=CPU)
        moved[clip] = (found[1] - found[0]).norm().item()
    assert moved[1e-6] < 1e-6 < moved[None]


def test_keys_of_older_stores_stay_as_they_were():
    old = {"backbone": "small-bn", "steps": 400, "batch_size": 64, "lr": 0.01, "seed": 3}
    assert Job("photo", "plain", Settings(seed=3)).key()["settings"] == old
    new = replace(Settings(seed=3), recipe=Recipe(clip=2.0), network_options=(("width", 9),))
    added = {"recipe": asdict(Recipe(clip=2.0)), "network_options": [["width", 9]]}
    assert json.loads(json.dumps(Job("photo", "plain", new).key()["settings"])) == old | added


def test_worst_cell_and_leakage_are_of_the_features_given():
    labels, groups = torch.arange(80) % 2, torch.arange(80) // 2 % 2
    hits = torch.ones(80, dtype=torch.bool)
    hits[(labels == 1) & (groups == 0)] = torch.arange(20) < 5
    assert worst_cell(hits, labels, groups) == 25.0
    noise = torch.randn(80, 4)
    hidden = measures(noise, hits, labels, groups, seed=0)
    shown = measures(noise + 5.0 * groups[:, None], hits, labels, groups, seed=0)
    assert hidden["worst cell"] == shown["worst cell"] == 25.0
    assert shown["leakage"] == 100.0
    assert hidden["leakage"] < 75.0
    assert set(measures(noise[:30], hits[:30], labels[:30], (torch.arange(30) > 25).long(), seed=0)) == {"worst cell"}


def test_the_accuracy_with_statistics_re_estimated_is_that_of_a_network_that_has_seen_the_training_rows(parquet):
    task = build_pictures(parquet)
    torch.manual_seed(0)
    network = network_named("test_picture_networks:Tiny", 2, {})
    norm = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.running_mean.fill_(50.0)
    before = copy.deepcopy(network.state_dict())
    test = task.tests["unbiased"]
    found = _measures(network, test, task.train, CPU, 0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    rows = to_float(task.train.images)
    assert len(rows) <= 64  # one batch: its statistics are those of all rows
    network.train()
    norm.momentum = 1.0
    network(rows)
    network.eval()
    hits = network(to_float(test.images)).argmax(1) == test.labels
    assert_close(found["statistics re-estimated"], 100.0 * hits.float().mean().item())


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run `pictures.py` with a folder for results of its own."""

    def run(*arguments):
        few = ["--steps", "3", "--image-size", "16", "--workers", "1", "--batch-size", "8", "--seeds", "0"]
        monkeypatch.setattr(sys, "argv", ["pictures.py", *few, "--out", str(tmp_path / "out"), *map(str, arguments)])
        pictures.main()
        return tmp_path / "out"

    return run


def _own(path):
    rows = ["--rows", "40", "--auxiliary-rows", "40", "--validation-rows", "16", "--test-rows", "40"]
    return ["--data", path, "--class-column", "shade", "--nuisance-column", "colour", *rows]


def test_a_run_is_reported_and_resumed(start, parquet, tmp_path, monkeypatch, capsys):
    options = [*_own(parquet), "--methods", "MMD", "upper bound", "--augment", "--clip", "1"]
    out = start(*options, "--network", "test_picture_networks:Tiny", "--network-options", "width=5")
    folder = out / "pictures-test_picture_networks.Tiny"
    table = (folder / "report.md").read_text()
    assert "| method | paired % | unbiased % | worst cell % | leakage % |" in table
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]
    assert rows[1:] == ["| ---", "| plain", "| upper bound", "| MMD", "| MMD, oracle weight"]
    assert {path.name for path in folder.glob("*.png")} == {"accuracy.png", "components.png", "critic.png"}
    said = json.loads((folder / "report.json").read_text())
    assert said["arguments"]["fine_tuning"]["network_options"] == ["width=5"]
    before = ResultsStore(out / "results.jsonl").records()
    assert len(before) == 4 + 4
    settings = before[0]["key"]["settings"]
    assert settings["recipe"] == {"optimizer": "adamw", "weight_decay": 0.01, "augment": True, "clip": 1.0}
    assert settings["network_options"] == [["width", 5]]
    made = []
    monkeypatch.setattr(jobs, "train", lambda *given, _train=jobs.train, **named: made.append(named) or _train(*given, **named))
    start(*options, "--network", "test_picture_networks:Tiny", "--network-options", "width=5", "--resume")
    assert made == []
    start(*options, "--network", "test_picture_networks:Tiny", "--network-options", "width=5", "--resume", "--optimizer", "sgd")
    assert len(made) == 8
    monkeypatch.setattr(sys, "argv", ["report.py", str(out), "--out", str(tmp_path / "report")])
    tyro.cli(report.main)
    assert len(list((tmp_path / "report").glob("pictures-test_picture_networks.Tiny-bias-0.95-3-steps*/report.md"))) == 2


def test_embedded_faces_go_with_their_style(start, faces_cache, monkeypatch, capsys):
    pytest.importorskip("dicebear")
    pytest.importorskip("resvg_py")
    monkeypatch.setattr(sets, "ROWS_PER_CELL", 6)
    picture_task._faces.cache_clear()
    rows = ["--rows", "30", "--auxiliary-rows", "60", "--validation-rows", "30", "--test-rows", "30", "--bias", "0.5"]
    out = start("--cache", faces_cache, "--methods", "wdpurify", *rows)
    picture_task._faces.cache_clear()
    found = ResultsStore(out / "results.jsonl").records()
    assert [record["key"]["row"] for record in found] == ["plain", "wdpurify"]
    assert set(found[0]["accuracy"]) == {"validation", "paired", "unbiased"}
    assert found[0]["key"]["data"]["sizes"] == {"rows": 30, "auxiliary_rows": 60, "validation_rows": 30, "test_rows": 30}
    assert set(found[0]["measures"]) == {"worst cell", "statistics re-estimated"}  # six rows of a style are too few for a probe


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "PL"], "--methods: 'PL' is none of"),
        (["--bias", "1.5"], "--bias: must be in [0, 1], got 1.5"),
        (["--data", "somewhere"], "--data, --class-column and --nuisance-column go together"),
        (["--class-column", "shade"], "--data, --class-column and --nuisance-column go together"),
        (["--pretrained"], "--weights, --pretrained and --network-options: small-bn takes none"),
        (["--network", "a:b", "--pretrained"], "--weights and --pretrained are for timm models"),
        (["--network", "resnet10t", "--weights", "nowhere.pt"], "--weights: there is no file nowhere.pt"),
        (["--network", "alexnet"], "--image-size: 16 is too small for alexnet"),
        (["--network", "a:b", "--network-options", "width"], "--network-options: expected key=value, got 'width'"),
        (["--batch-size", "1"], "--batch-size: must be at least 2, got 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, start):
    with pytest.raises(SystemExit, match=re.escape(message)):
        start(*arguments)


def test_wrong_data_end_the_run_with_what_is_wrong(start, parquet):
    with pytest.raises(SystemExit, match="has no column 'size'"):
        start(*[{"shade": "size"}.get(given, given) for given in _own(parquet)])
    with pytest.raises(SystemExit, match="cannot be imported"):
        start(*_own(parquet), "--network", "nowhere:made")
