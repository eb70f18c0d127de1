"""The picture benchmark: which rows go where, networks from elsewhere, fine-tuning, and a run as a user starts it."""

import copy
import csv
import json
import re
import sys
from dataclasses import asdict, replace

import datasets
import pictures
import pytest
import report
import torch
from PIL import Image
from purifybench import jobs
from purifybench.adapted import network_named
from purifybench.faces import styles
from purifybench.jobs import Job
from purifybench.measures import measures, worst_cell
from purifybench.methods import METHODS, PICTURE_METHODS
from purifybench.methods.coral import coral_distance
from purifybench.methods.group_matching import mean_distance
from purifybench.methods.maximum_mean_discrepancy import BANDWIDTHS, squared_mmd
from purifybench.methods.plain import Plain
from purifybench.recipe import Recipe
from purifybench.results import ResultsStore
from purifybench.tasks import pictures as picture_task
from purifybench.tasks._types import to_float
from purifybench.tasks.cells import Sizes, split_cells
from purifybench.training import Settings, _measures, train
from torch.testing import assert_close

CPU = torch.device("cpu")
SIZES = Sizes(rows=40, auxiliary_rows=16, validation_rows=16, test_rows=40)
#: Classes are shades and nuisances are colours; a cell has so many rows.
CLASSES = ("dark", "light")
NUISANCES = ("red", "green")
ROWS_PER_CELL = 44


def _rows(nuisances=NUISANCES):
    generator = torch.Generator().manual_seed(0)
    for label in range(len(CLASSES)):
        for group in range(len(nuisances)):
            for _ in range(ROWS_PER_CELL):
                pixels = torch.randint(40, (20, 24, 3), generator=generator) + 60 * label
                pixels[..., group % 3] += 100
                yield Image.fromarray(pixels.to(torch.uint8).numpy()), label, group


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """A file with class labels by number and nuisances by name."""
    images, labels, groups = zip(*_rows(), strict=True)
    rows = {"image": list(images), "shade": list(labels), "colour": [NUISANCES[group] for group in groups]}
    found = datasets.Dataset.from_dict(rows).cast_column("shade", datasets.ClassLabel(names=list(CLASSES)))
    path = tmp_path_factory.mktemp("pictures") / "train-00000-of-00001.parquet"
    found.to_parquet(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image folder with both columns in its metadata."""
    place = tmp_path_factory.mktemp("folder")
    with (place / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "shade", "colour"])
        for number, (image, label, group) in enumerate(_rows()):
            image.save(place / f"{number}.png")
            writer.writerow([f"{number}.png", CLASSES[label], NUISANCES[group]])
    return place


def _build(*data, **options):
    given = {"data": tuple(map(str, data)), "class_column": "shade", "nuisance_column": "colour", "cache": None, "sizes": SIZES}
    return picture_task.build(**{"seed": 0, "image_size": 16, **given, **options})


def _cells(labels, groups):
    return torch.bincount(labels * 2 + groups, minlength=4).tolist()


@pytest.fixture
def coded():
    """Class and nuisance of 3 times 2 cells of sixty rows, in no order."""
    order = torch.randperm(360)
    return (torch.arange(360) // 120)[order], (torch.arange(360) % 2)[order]


def test_no_row_is_in_two_splits_and_all_but_the_biased_ones_have_equal_cells(coded):
    labels, groups = coded
    parts = split_cells(labels, groups, bias=0.9, sizes=Sizes(60, 60, 61, 65), seed=3)
    shared = {(first, second): set(getattr(parts, first).tolist()) & set(getattr(parts, second).tolist())
              for first in asdict(parts) for second in asdict(parts) if first < second}  # fmt: skip
    overlapping = {names for names, rows in shared.items() if rows}
    assert overlapping == {("train", "upper"), ("oracle", "validation")}
    assert set(parts.validation.tolist()) < set(parts.oracle.tolist())
    for name, rows in {"auxiliary": 10, "oracle": 10, "test": 10, "upper": 10}.items():
        chosen = getattr(parts, name)
        assert torch.bincount(labels[chosen] * 2 + groups[chosen]).tolist() == [rows] * 6, name
        assert len(set(chosen.tolist())) == 6 * rows


@pytest.mark.parametrize(("bias", "paired"), [(0.0, 0), (0.5, 10), (0.9, 18), (1.0, 20)])
def test_bias_is_the_share_of_training_rows_whose_class_has_its_partner(coded, bias, paired):
    labels, groups = coded
    parts = split_cells(labels, groups, bias=bias, sizes=Sizes(60, 60, 60, 60), seed=3)
    partners = torch.tensor([0, 1, 0])  # two nuisances for three classes: the third takes the first again
    for label in range(3):
        of_class = parts.train[labels[parts.train] == label]
        assert len(of_class) == 20
        assert int((groups[of_class] == partners[label]).sum()) == paired
    shares = (groups[parts.validation] == partners[labels[parts.validation]]).float().mean().item()
    assert abs(shares - bias) < 0.05


def test_splits_are_the_same_for_a_seed_and_others_for_another(coded):
    first, again, other = (split_cells(*coded, bias=0.9, sizes=Sizes(60, 60, 60, 60), seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in asdict(first))
    assert not torch.equal(first.test, other.test)


def test_too_few_rows_or_cells_are_named(coded):
    labels, groups = coded
    with pytest.raises(ValueError, match="class 0 with nuisance 0 has 60 rows and needs 64"):
        split_cells(labels, groups, bias=0.9, sizes=Sizes(60, 60, 60, 156), seed=0)
    with pytest.raises(ValueError, match="`test_rows` must be at least 6, one per class and nuisance, got 5"):
        split_cells(labels, groups, bias=0.9, sizes=Sizes(60, 60, 60, 5), seed=0)
    with pytest.raises(ValueError, match="two classes and two nuisances are needed at least, got 3 and 1"):
        split_cells(labels, torch.zeros_like(groups), bias=0.9, sizes=Sizes(60, 60, 60, 60), seed=0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # datasets leaves metadata.csv open
def test_parquet_files_and_image_folders_are_the_same_pictures(parquet, folder):
    of_file, of_folder = _build(parquet), _build(folder)
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
    both = _build(parquet, parquet, sizes=sizes)
    assert len(both.train.labels) == 80
    turned = _build(parquet, classes=("light", "dark"), nuisances=("red", "green"))
    red, light = turned.train.groups == 0, turned.train.labels == 0
    assert int((red & light).sum()) == 19
    assert turned.train.images[light].float().mean() > turned.train.images[~light].float().mean()


def test_missing_columns_and_values_are_named(parquet):
    with pytest.raises(ValueError, match="has no column 'size'; it has image, shade, colour"):
        _build(parquet, class_column="size")
    with pytest.raises(ValueError, match="column 'colour' has no value 'blue'; it has green, red"):
        _build(parquet, nuisances=("red", "blue"))


def test_rows_without_a_label_are_left_out():
    rows = {"number": [3, None, 10, 3], "name": [0, -1, 1, 1]}
    source = datasets.Dataset.from_dict(rows).cast_column("name", datasets.ClassLabel(names=["a", "b", "never"]))
    codes, names = picture_task.coded(source, "number", ())
    assert (codes.tolist(), names) == ([0, -1, 1, 0], ["3", "10"])
    codes, names = picture_task.coded(source, "name", ())
    assert (codes.tolist(), names) == ([0, -1, 1, 1], ["a", "b"])


def test_clipping_limits_the_step(parquet):
    task = _build(parquet)
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
    assert Job("photo", "goal 1 only", Settings(seed=3)).key()["settings"] == old
    new = replace(Settings(seed=3), recipe=Recipe(clip=2.0), network_options=(("width", 9),))
    added = {"recipe": asdict(Recipe(clip=2.0)), "network_options": [["width", 9]]}
    assert json.loads(json.dumps(Job("photo", "goal 1 only", new).key()["settings"])) == old | added


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
    task = _build(parquet)
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


def _reference_mmd(first, second):
    import numpy as np

    rows = np.concatenate([first, second])
    distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    total = 0.0
    for factor in BANDWIDTHS:
        kernel = np.exp(-factor * distances / distances.mean())
        signs = np.concatenate([np.full(len(first), 1 / len(first)), np.full(len(second), -1 / len(second))])
        total += signs @ kernel @ signs
    return total / len(BANDWIDTHS)


def test_distances_are_those_of_their_formulas():
    import numpy as np

    first = torch.randn(7, 3, dtype=torch.float64)
    second = 2.0 * torch.randn(5, 3, dtype=torch.float64) + 1.0
    assert_close(squared_mmd(first, second).item(), _reference_mmd(first.numpy(), second.numpy()))
    covariances = np.cov(first.numpy().T) - np.cov(second.numpy().T)
    means = first.numpy().mean(0) - second.numpy().mean(0)
    assert_close(coral_distance(first, second).item(), (means**2).mean() + (covariances**2).mean())
    for distance in (squared_mmd, coral_distance):
        assert abs(distance(first, first).item()) < 1e-12 < distance(first, second).item()


def test_the_sliced_distance_is_the_mean_w1_of_projections_drawn_anew_in_every_step(parquet):
    pytest.importorskip("ot")
    network = network_named("test_picture_networks:Tiny", 2, {})
    method = PICTURE_METHODS["sliced Wasserstein"](network, _build(parquet), seed=0, device=CPU, steps=9, batch_size=8)
    line = torch.arange(4.0)[:, None]
    assert_close(method.sliced_distance(line, 2.0 * line + 1.0), torch.tensor(2.5))  # means of 1, 2, 3 and 4
    first, second = torch.randn(6, 5), torch.randn(6, 5)
    before = method.sliced_distance(first, second)
    assert_close(method.sliced_distance(first, second), before)
    method.sampler.next_batch()
    assert not torch.allclose(method.sliced_distance(first, second), before)


def test_the_mean_distance_is_over_pairs_of_groups_with_two_rows():
    features = torch.tensor([[0.0], [0.0], [1.0], [1.0], [3.0], [3.0], [50.0]], requires_grad=True)
    groups = torch.tensor([0, 0, 1, 1, 2, 2, 3])

    def apart(first, second):
        return (first.mean() - second.mean()).abs()

    assert_close(mean_distance(features, groups, apart), torch.tensor(2.0))  # of 1, 3 and 2
    alone = mean_distance(features[:2], groups[:2], apart)
    alone.backward()
    assert alone.item() == 0.0


def test_protected_statistics_are_those_of_the_task_rows_alone(parquet):
    task = _build(parquet)
    found = {}
    for name in ("goal 1 only", "gradient reversal", "gradient reversal, protected statistics"):
        torch.manual_seed(0)
        network = network_named("test_picture_networks:Tiny", 2, {})
        options = {"batch_size": 8} if "reversal" in name else {}
        method = PICTURE_METHODS[name](network, task, seed=0, device=CPU, steps=2, **options)
        method.loss(torch.ones(4, 3, 16, 16), torch.tensor([0, 1, 0, 1]))
        found[name] = dict(network.named_buffers())["features.model.body.1.running_mean"]
    plain, usual, protected = found.values()
    assert_close(protected, plain)
    assert not torch.allclose(usual, plain)


@pytest.mark.parametrize("name", [name for name in PICTURE_METHODS if name not in METHODS] + ["gradient reversal"])
def test_every_new_method_trains_and_resumes_to_the_same_weights(name, parquet, tmp_path, monkeypatch):
    task = _build(parquet)
    monkeypatch.setattr("purifybench.training.CHECKPOINT_EVERY", 3)
    options = {} if name.startswith("LEACE") else {"batch_size": 16}
    settings = Settings(steps=6, batch_size=8, lr=1e-3, recipe=Recipe(augment=True))

    def make(*given, **named):
        return PICTURE_METHODS[name](*given, **{**named, **options})

    whole = train(task, make, settings, device=CPU)
    checkpoint = tmp_path / "run.pt"

    class Killed(Exception):
        pass

    def killed(*given, **named):
        method = make(*given, **named)
        loss, calls = method.loss, []

        def counted(images, labels):
            calls.append(1)
            if len(calls) == 5:
                raise Killed
            return loss(images, labels)

        method.loss = counted
        return method

    with pytest.raises(Killed):
        train(task, killed, settings, device=CPU, checkpoint=checkpoint)
    assert checkpoint.exists()
    resumed = train(task, make, settings, device=CPU, checkpoint=checkpoint)
    assert (resumed.accuracy, resumed.measures) == (whole.accuracy, whole.measures)
    assert resumed.component_shares == whole.component_shares


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
    assert rows[1:] == ["| ---", "| goal 1 only", "| upper bound", "| MMD", "| MMD, oracle weight"]
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
    report.main()
    assert len(list((tmp_path / "report").glob("pictures-test_picture_networks.Tiny-bias-0.95-3-steps*/report.md"))) == 2


def test_embedded_faces_go_with_their_style(start, faces_cache, monkeypatch, capsys):
    pytest.importorskip("dicebear")
    pytest.importorskip("resvg_py")
    monkeypatch.setattr(styles, "ROWS_PER_CELL", 6)
    picture_task._faces.cache_clear()
    rows = ["--rows", "30", "--auxiliary-rows", "60", "--validation-rows", "30", "--test-rows", "30", "--bias", "0.5"]
    out = start("--cache", faces_cache, "--methods", "PL all groups (default)", *rows)
    picture_task._faces.cache_clear()
    found = ResultsStore(out / "results.jsonl").records()
    assert [record["key"]["row"] for record in found] == ["goal 1 only", "PL all groups (default)"]
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
