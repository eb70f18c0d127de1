"""The label audit where the truth is known: what is irrelevant, what is the task itself, and what is not in the images."""

import io
import json
import random
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("sklearn")
from rich.console import Console
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from wdpurify._balance import cramers_v
from wdpurify.audit import audit, leakage
from wdpurify.audit._association import associate, independence_weights
from wdpurify.audit._columns import describe_column
from wdpurify.audit._probe import balanced_weights
from wdpurify.audit._transfer import crossed_interval
from wdpurify.audit._verdict import judge

FAST = {"steps": 100, "repeats": 3, "permutations": 20, "batch_size": 32, "lr": 1e-2}


def _net(norm=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(32, 2),
    )


def _images(stripes, tint, seed):
    """Stripes across or along, at any phase, so that only features made for them tell; a tint in one channel; noise."""
    generator = torch.Generator().manual_seed(seed)
    count = len(stripes)
    phase = torch.randint(4, (count, 1, 1), generator=generator)
    line = ((torch.arange(8) + phase) % 4 < 2).float().expand(count, 8, 8)
    pattern = torch.where(stripes[:, None, None] == 1, line, line.mT)
    images = 0.3 * pattern[:, None].repeat(1, 3, 1, 1)
    images[:, 0] += 0.3 * tint[:, None, None]
    return images + 0.25 * torch.randn(count, 3, 8, 8, generator=generator)


def _rows(count, seed, bias=0.0):
    generator = torch.Generator().manual_seed(seed)
    stripes = torch.arange(count) % 2
    free = torch.randint(2, (count,), generator=generator)
    tint = torch.where(torch.rand(count, generator=generator) < bias, stripes, free)
    return _images(stripes, tint, seed), stripes, tint


@pytest.fixture(scope="module")
def auxiliary():
    images, stripes, tint = _rows(600, 1)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(2))
    return images, {"tint": tint, "stripes": [("along", "across")[value] for value in stripes], "dice": tint[order]}


@pytest.fixture(scope="module")
def judged(auxiliary):
    images, stripes, _ = _rows(160, 3, bias=0.9)
    other, labels, _ = _rows(300, 4)
    columns = ["stripes", "dice", "tint"]
    options = FAST | {"repeats": 4, "margin": 0.2}  # a net this small differs by some ten points between trainings
    return audit(_net(), (images, stripes), auxiliary, columns, evaluation=(other, labels), **options)


def test_the_nuisance_is_for_use_the_task_itself_is_not_and_dice_are_doubtful(judged):
    verdicts = {entry.column.name: entry.verdict for entry in judged.columns}
    assert verdicts == {"tint": "use", "dice": "doubtful", "stripes": "do not use"}
    assert [entry.column.name for entry in judged.columns] == ["tint", "dice", "stripes"]
    assert "nothing to forget" in judged["dice"].reason
    assert judged["stripes"].transfer.low > 0 > judged["tint"].transfer.low
    assert judged["stripes"].transfer.carried > 0.35 > judged["tint"].transfer.carried + 0.2  # of at most 0.5
    assert "by itself" in judged["stripes"].reason
    assert judged["tint"].leakage.p_value < 0.05 < judged["dice"].leakage.p_value
    assert judged["tint"].association.cramers_v > 0.6
    assert not judged["tint"].association.known
    with pytest.raises(KeyError, match="hat"):
        judged["hat"]


def test_without_separate_data_a_label_that_goes_with_the_task_is_at_best_doubtful(auxiliary):
    images, stripes, tint = _rows(160, 3, bias=0.9)
    found = audit(_net(), (images, {"label": stripes, "tint": tint}), auxiliary, ["tint"], **FAST)
    assert found["tint"].verdict == "doubtful"
    assert "give `evaluation` data" in found["tint"].reason
    assert "can look relevant" in str(found)
    assert found["tint"].association.known
    unbiased = _rows(160, 3)
    found = audit(_net(), unbiased[:2], auxiliary, ["tint", "stripes"], **FAST)
    assert "goes with the task label" not in found["tint"].reason
    assert found["stripes"].transfer.carried is None
    assert found["tint"].transfer.effect < found["stripes"].transfer.effect


def test_the_report_can_be_printed_written_and_plotted(judged, tmp_path, capsys):
    judged.print()
    out = capsys.readouterr().out
    assert "do not use" in out
    assert "tint: irrelevant: learning it does not help" in " ".join(out.split())
    assert judged.markdown().splitlines()[2].startswith("| tint | use |")
    read = json.loads(judged.json())
    assert read["columns"][0]["transfer"]["separate"] is True
    assert "separate data" in judged.evaluation
    assert str(judged).startswith("tint: use. Irrelevant: ")
    judged.plot(tmp_path / "audit.png")
    assert (tmp_path / "audit.png").stat().st_size > 1000


def test_nothing_of_the_users_is_changed_and_the_seed_decides(auxiliary):
    model = _net().train()
    model[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images, stripes, _ = _rows(80, 3)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global state is what must stay
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    fast = FAST | {"steps": 5, "repeats": 2}
    first, again = (audit(model, (images, stripes), auxiliary, ["tint"], **fast) for _ in range(2))
    other = audit(model, (images, stripes), auxiliary, ["tint"], **fast, seed=1)
    leakage(model, *_rows(60, 5)[::2], permutations=2)
    assert first == again
    assert first["tint"].transfer != other["tint"].transfer
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model[0].weight.requires_grad
    assert model[3].training
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_is_told_after_each_training():
    images, stripes, tint = _rows(80, 3)
    told = []
    options = FAST | {"steps": 2, "repeats": 2, "permutations": 2}
    audit(_net(), (images, stripes), (images, {"tint": tint}), ["tint"], progress=lambda *place: told.append(place), **options)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_leakage_is_high_where_the_label_is_and_at_chance_where_it_is_shuffled():
    images, _, tint = _rows(300, 7)
    there = leakage(_net(), images, tint, permutations=30)
    shuffled = leakage(_net(), images, tint[torch.randperm(300)], permutations=30)
    assert there.balanced_accuracy > 0.85
    assert there.p_value == pytest.approx(1 / 31)
    assert abs(shuffled.balanced_accuracy - 0.5) < 0.1
    assert shuffled.p_value > 0.05
    assert 0.5 < there.low < there.balanced_accuracy <= there.high <= 1
    assert "p = 0.032" in str(there)
    assert leakage(_net(), images, tint, permutations=3, max_rows=50).rows == 50


def test_leakage_reads_the_layer_or_the_features_that_are_asked_for():
    images, _, tint = _rows(100, 7)
    net, options = _net(), {"permutations": 3, "seed": 3}
    found = leakage(net, images, tint, **options)
    cut = net[:-2]
    assert leakage(net, images, tint, features=lambda model, x: model[:-2](x), **options) == found
    assert leakage(net, images, tint, layer="6", device="cpu", **options) == found
    assert leakage(None, cut.eval()(images).detach(), tint, **options) == found
    assert leakage(net, images, tint, layer="2", **options) != found
    with pytest.raises(ValueError, match="give one of them"):
        leakage(net, images, tint, layer="2", features=lambda model, x: model(x))


def test_p_values_of_labels_that_say_nothing_are_uniform():
    generator = torch.Generator().manual_seed(0)
    found = [
        leakage(
            None,
            torch.randn(40, 3, generator=generator),
            torch.randint(2, (40,), generator=generator),
            permutations=3,
            seed=seed,
        ).p_value
        for seed in range(24)
    ]
    counts = np.bincount((np.array(found) * 4).round().astype(int), minlength=5)[1:]
    assert stats.chisquare(counts).pvalue > 0.001
    assert counts.sum() == 24


def test_known_tables_have_their_cramers_v():
    assert cramers_v(torch.tensor([[50, 0], [0, 50]])) == pytest.approx(1.0, abs=1e-6)
    assert cramers_v(torch.tensor([[25, 25], [25, 25]])) == 0
    assert cramers_v(torch.tensor([[5, 5]])) == 0
    found = associate(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1]), list("abc"), ["no", "yes"], known=True)
    assert found.determined
    assert found.empty_cells == ("a / yes", "b / no", "c / no")
    assert found.table["c"] == {"no": 0, "yes": 1}
    assert not associate(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), list("ab"), list("cd"), known=True).determined


def test_weights_make_label_and_task_independent_and_classes_alike():
    task, groups = torch.tensor([0] * 8 + [1] * 4), torch.tensor([0] * 6 + [1] * 2 + [0, 1, 1, 1])
    weights = independence_weights(task, groups)
    cells = torch.zeros(2, 2, dtype=torch.float64).index_put_((task, groups), weights, accumulate=True)
    torch.testing.assert_close(cells[0], cells[1])
    assert weights.mean() == pytest.approx(1.0)
    assert independence_weights(task, groups, largest=1.2).max() < weights.max()


def test_balanced_weights_give_balanced_accuracy():
    labels = torch.randint(3, (50,))
    guesses = torch.randint(3, (50,))
    expected = balanced_accuracy_score(labels, guesses)
    assert (balanced_weights(labels) * (labels == guesses)).mean() == pytest.approx(expected)


def test_the_interval_covers_the_true_gain_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        repeats, rows = torch.randn(4, 1, generator=generator), torch.randn(1, 60, generator=generator)
        gains = 0.5 + 0.1 * repeats + 0.5 * rows + 0.3 * torch.randn(4, 60, generator=generator)
        _, low, high = crossed_interval(gains.double())
        covered += low < 0.5 < high
    assert 0.92 < covered / 400 <= 1.0
    assert crossed_interval(torch.zeros(2, 5)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ([None] * 40, "no row has a value"),
        (["a"] * 40, "all rows have the same value, a"),
        ([f"id-{number}" for number in range(40)], "looks like an identifier"),
        (torch.linspace(0, 1, 100), "a continuous column"),
        (["a"] * 40 + ["b"] * 3, "fewer than two values have 10 rows"),
    ],
)
def test_columns_that_cannot_be_audited_say_why(cells, problem):
    assert problem in describe_column("x", list(cells))[0].problem


def test_missing_and_rare_values_are_left_out_and_small_groups_warned_about():
    column, codes, names = describe_column("x", ["a"] * 60 + ["b"] * 20 + ["c"] * 2 + [None, float("nan")])
    assert column.problem == ""
    assert column.missing == 2
    assert names == ["a", "b"]
    assert codes.tolist() == [0] * 60 + [1] * 20 + [-1] * 4
    assert [warning.partition(":")[0] for warning in column.warnings] == [
        "2 of 84 rows have no value and are left out",
        "values with fewer than 10 rows are left out",
        "small groups, few rows to draw from",
    ]
    with pytest.raises(TypeError, match="one label per row, got a list"):
        describe_column("x", [["a"]])


def test_a_column_with_a_problem_is_reported_and_the_others_audited(auxiliary):
    images, columns = auxiliary
    columns = columns | {"same": [1] * 600}
    fast = FAST | {"steps": 2, "repeats": 2, "permutations": 1}
    task = _rows(60, 3)
    found = audit(_net(), (task[0], {"label": task[1], "stripes": task[1]}), (images, columns), ["same", "tint"], **fast)
    assert [entry.column.name for entry in found.columns] == ["tint", "same"]
    assert found["same"].verdict == "do not use"
    assert found["same"].transfer is None
    assert "all rows have the same value" in found.markdown()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"columns": ["hat"]}, ValueError, "`auxiliary` has no column 'hat'; it has 'tint', 'stripes', 'dice'"),
        ({"columns": "tint"}, ValueError, "`columns` must be a list of column names"),
        ({"task": (torch.zeros(4, 3, 8, 8), [0, 1])}, ValueError, "`task` must have as many labels as its 4 images"),
        ({"task": (torch.zeros(40, 3, 8, 8), [0] * 40)}, ValueError, "all rows have the same value, 0"),
        ({"task": (torch.zeros(8, 3, 8, 8), [0, 1] * 4)}, ValueError, "ten rows or more per class"),
        ({"task": (torch.zeros(0, 3, 8, 8), [])}, ValueError, "`task` must have rows, got none"),
        ({"task": (["a"] * 20, [0, 1] * 10)}, TypeError, "`task` must hold images, pictures or tensors.* got str"),
        ({"task": (torch.zeros(20, 5), [0, 1] * 10)}, TypeError, r"got a tensor of shape \(5,\)"),
        ({"task": (torch.zeros(20, 3, 8, 8).long(), [0, 1] * 10)}, TypeError, "floating point or byte images, got torch.int64"),
        ({"task": "somewhere"}, TypeError, "`task` must be .* or a map-style data set, got str"),
        ({"task": (torch.zeros(20, 3, 9, 9), [0, 1] * 10)}, ValueError, "all sources must have images of one shape"),
        (
            {"task": ([torch.zeros(3, 8, 8)] * 19 + [torch.zeros(3, 9, 9)], [0, 1] * 10)},
            ValueError,
            r"images of one shape, got \(3, \d, \d\) in row \d+ and \(3, \d, \d\) in row \d+",
        ),
        ({"evaluation": (torch.zeros(4, 3, 8, 8), [0, 1, 2, 1])}, ValueError, "task classes .* got 2"),
        ({"model": "no_such_net"}, ValueError, "a name that timm knows, got 'no_such_net'"),
        ({"model": lambda x: x}, TypeError, "`model` must be a torch.nn.Module or the name"),
        ({"repeats": 1}, ValueError, "`repeats` must be at least 2"),
        ({"steps": 0}, ValueError, "`steps` must be at least 1, got 0"),
        ({"margin": -1}, ValueError, "`margin` must be a finite number"),
    ],
)
def test_wrong_inputs_are_named(auxiliary, changes, error, message):
    given = {"model": _net(), "task": _rows(40, 3)[:2], "auxiliary": auxiliary, "columns": ["tint"]} | FAST | changes
    with pytest.raises(error, match=message):
        audit(**given)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None, torch.zeros(20, 3, 8, 8), [0, 1] * 10), ValueError, r"features of shape \(rows, dim\) without a `model`"),
        ((None, torch.zeros(20, 3), [0, 1]), ValueError, "got 2 labels for 20 rows"),
        ((None, torch.zeros(20, 3), [0] * 20), ValueError, "all rows have the same value, 0"),
        ((None, [[1.0]], [0]), TypeError, "`images` must be a floating point tensor, got list"),
        ((None, torch.zeros(20, 3).long(), [0, 1] * 10), TypeError, "got torch.int64"),
        ((nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), torch.full((20, 1), torch.nan), [0, 1] * 10), ValueError, "not finite"),
    ],
)
def test_wrong_inputs_of_leakage_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        leakage(*arguments)
    with pytest.raises(ValueError, match="raise `max_rows`"):
        leakage(None, torch.randn(200, 2), [0] * 180 + [1] * 20, max_rows=20)


def test_verdicts_follow_the_intervals(judged):
    leak, association = judged["tint"].leakage, judged["tint"].association
    within = type(judged["tint"].transfer)(0.5, 0.5, 0.0, -0.02, 0.02, 0.9, True, False)
    free = associate(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), list("ab"), list("cd"), known=False)
    assert judge(within, leak, free, 0.05)[0] == "use"
    relevant = replace(within, separate=True, carried=0.1, carried_low=0.02, carried_high=0.18)
    verdict, reason = judge(relevant, leak, free, 0.05)
    assert (verdict, "10.0 points (2.0 to 18.0) above chance" in reason) == ("do not use", True)
    assert judge(replace(relevant, carried_low=-0.01), leak, free, 0.05)[0] == "use"
    assert judge(replace(relevant, carried=0.04), leak, free, 0.05)[0] == "use"
    assert judge(within, leak, free, 0.01)[0] == "doubtful"
    assert judge(within, leak, association, 0.05)[0] == "doubtful"
    verdict, reason = judge(within, leak, association, 0.05, own_rows=True)
    assert (verdict, "purify with `balance`" in reason) == ("doubtful", True)
    verdict, reason = judge(replace(within, separate=True), leak, association, 0.05, own_rows=True)
    assert (verdict, "balance=classes" in reason) == ("use, with balance", True)
    assert judge(replace(within, separate=True), leak, free, 0.05, own_rows=True)[0] == "use"


def test_the_tasks_own_rows_need_no_other_data():
    images, stripes, tint = _rows(160, 3, bias=0.9)
    other, labels, _ = _rows(300, 4)
    task = (images, {"label": stripes, "tint": tint})
    found = audit(_net(), task, None, ["tint"], evaluation=(other, labels), **FAST | {"margin": 0.5})
    assert found["tint"].association.known
    assert found["tint"].verdict == "use, with balance"
    assert found.settings["auxiliary rows"] == found.settings["task rows"] == 160


def test_bytes_data_sets_transforms_and_sizes_are_read_alike(auxiliary):
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    images, stripes, tint = _rows(60, 3)
    pixels = (images.clamp(0, 1) * 255).to(torch.uint8)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    named = datasets.Dataset.from_dict({"picture": pictures, "kind": stripes.tolist(), "tint": tint.tolist()})
    named = named.cast_column("kind", datasets.ClassLabel(names=["along", "across"]))
    rows = [{"picture": image, "kind": kind, "tint": value} for image, kind, value in zip(pixels, stripes, tint, strict=True)]

    class Rows:
        def __len__(self):
            return len(rows)

        def __getitem__(self, row):
            return rows[row]

    fast = {"steps": 2, "repeats": 2, "permutations": 2, "label": "kind", "image": "picture"}
    first, second = (audit(_net(), source, source, ["tint"], **fast) for source in (named, Rows()))
    assert first["tint"].transfer == second["tint"].transfer
    resized = audit(_net(), named, Rows(), ["tint"], image_size=12, max_rows=50, **fast)
    assert resized.settings["task rows"] == 50
    lighter = audit(_net(), Rows(), Rows(), ["tint"], transform=lambda image: image.float(), **fast)
    assert lighter["tint"] != second["tint"]
    with pytest.raises(ValueError, match="has no column 'hat'; it has 'picture'"):
        audit(_net(), named, named, ["hat"], **fast)


def test_a_missing_library_is_named_with_the_command():
    script = "import sys; sys.modules['sklearn'] = None\nimport wdpurify\nimport wdpurify.audit"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert re.search(r'ImportError: the label audit needs.*pip install "wdpurify\[audit\]"', run.stderr)


def test_the_core_does_not_import_the_audit():
    script = "import sys, wdpurify; assert not {'sklearn', 'scipy', 'wdpurify.audit'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


HOSTILE = "$x_{$ [red]|<script>\x1b[31m`*\nnext" + "n" * 10_000


def test_names_and_values_are_shown_harmlessly_everywhere(tmp_path):
    images = torch.rand(60, 3, 8, 8)
    labels = [0, 1] * 30
    groups = [(HOSTILE, "\x1b]0;title\x07b\n|")[row % 2] for row in range(60)]
    found = audit(_net(), (images, labels), (images, {HOSTILE: groups}), (HOSTILE,), repeats=2, steps=2, permutations=2)
    file = io.StringIO()
    found.print(Console(file=file, width=100, force_terminal=False))
    for text in (file.getvalue(), str(found), found.markdown()):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert len(text) < 10_000
    table = [line for line in found.markdown().splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert all(len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", table[0])) for line in table)
    assert not re.search(r"(?<!\\)[<$`]", "".join(table[2:]))
    found.plot(tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width < 3000
    assert json.loads(found.json())["columns"][0]["column"]["name"] == HOSTILE
