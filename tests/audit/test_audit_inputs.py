"""What the audit is given: columns that cannot be audited, wrong inputs, images in every form."""

import itertools
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

pytest.importorskip("sklearn")

from audit_rows import FAST, auxiliary_rows, small_net, striped_rows

from wdpurify.audit import audit
from wdpurify.audit._columns import describe_column


@pytest.fixture(scope="module")
def auxiliary():
    return auxiliary_rows()


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
    pandas = pytest.importorskip("pandas")
    for cells in (pandas.array([0, 1, None] * 30, dtype="Int64"), pandas.to_datetime(["2020-01-01", "2021-01-01", None] * 30)):
        column, codes, names = describe_column("x", list(cells))
        assert (column.missing, len(names), int((codes < 0).sum())) == (30, 2, 30)
    with pytest.raises(TypeError, match="one label per row, got a list"):
        describe_column("x", [["a"]])


def test_a_column_with_a_problem_is_reported_and_the_others_audited(auxiliary):
    images, columns = auxiliary
    columns = columns | {"same": [1] * 600}
    fast = FAST | {"steps": 2, "repeats": 2, "permutations": 1}
    task = striped_rows(60, 3)
    found = audit(small_net(), (task[0], {"label": task[1], "stripes": task[1]}), (images, columns), ["same", "tint"], **fast)
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
        ({"task": (["a"] * 20, [0, 1] * 10)}, ValueError, "all sources must have rows of one shape"),
        ({"task": (torch.zeros(20, 5), [0, 1] * 10)}, ValueError, r"rows of one shape, got \(3, 8, 8\), \(5,\)"),
        ({"task": (["a"] * 20, [0, 1] * 10), "image_size": 8}, TypeError, "`image_size` is for images .* got str in `task`"),
        ({"task": (["a.png"] * 20, [0, 1] * 10)}, TypeError, "paths of pictures, which nothing opens"),
        ({"task": (torch.zeros(20, 3, 8, 8).long(), [0, 1] * 10)}, TypeError, "floating point or byte images, got torch.int64"),
        ({"task": "somewhere"}, TypeError, "`task` must be .* or a map-style data set, got str"),
        ({"task": (torch.zeros(20, 3, 9, 9), [0, 1] * 10)}, ValueError, "all sources must have rows of one shape"),
        (
            {"task": ([torch.zeros(3, 8, 8)] * 19 + [torch.zeros(3, 9, 9)], [0, 1] * 10)},
            ValueError,
            r"rows of one shape, got \(3, \d, \d\) in row \d+ and \(3, \d, \d\) in row \d+",
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
    rows, labels, _ = striped_rows(40, 3)
    given = {"model": small_net(), "task": (rows, labels), "auxiliary": auxiliary, "columns": ["tint"]} | FAST | changes
    with pytest.raises(error, match=message):
        audit(**given)


def test_bytes_data_sets_transforms_and_sizes_are_read_alike(auxiliary):
    datasets = pytest.importorskip("datasets")

    images, stripes, tint = striped_rows(60, 3)
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
    first, second = (audit(small_net(), source, source, ["tint"], **fast) for source in (named, Rows()))
    assert first["tint"].transfer == second["tint"].transfer
    resized = audit(small_net(), named, Rows(), ["tint"], image_size=12, max_rows=50, **fast)
    assert resized.settings["task rows"] == 50
    lighter = audit(small_net(), Rows(), Rows(), ["tint"], transform=lambda image: image.float(), **fast)
    assert lighter["tint"] != second["tint"]
    with pytest.raises(ValueError, match="has no column 'hat'; it has 'picture'"):
        audit(small_net(), named, named, ["hat"], **fast)


def test_a_missing_library_is_named_with_the_command():
    script = "import sys; sys.modules['sklearn'] = None\nimport wdpurify\nimport wdpurify.audit"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert re.search(r'ImportError: the label audit needs.*pip install "\.\[audit\]"', run.stderr)


def test_the_core_does_not_import_the_audit():
    script = "import sys, wdpurify; assert not {'sklearn', 'scipy', 'wdpurify.audit'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


AS = {
    "numbers": lambda tint: tint.tolist(),
    "floats, one missing": lambda tint: [float("nan"), *map(float, tint[1:].tolist())],
    "booleans": lambda tint: list(map(bool, tint.tolist())),
    "text": lambda tint: list(map(str, tint.tolist())),
}


@pytest.mark.parametrize(
    ("in_auxiliary", "in_task"), [pair for pair in itertools.product(AS, AS) if {"text", "booleans"} != set(pair)]
)
def test_a_value_is_the_same_in_both_sources_whatever_its_type(in_auxiliary, in_task):
    images, stripes, _ = striped_rows(60, 3)
    task = images, {"label": stripes, "tint": AS[in_task](stripes)}
    auxiliary, _, tint = striped_rows(60, 1)
    fast = FAST | {"steps": 2, "repeats": 2, "permutations": 1}
    evaluation = images, stripes.double()
    found = audit(small_net(), task, (auxiliary, {"tint": AS[in_auxiliary](tint)}), ["tint"], evaluation=evaluation, **fast)
    association = found["tint"].association
    assert association.cramers_v > 0.99
    assert sum(sum(row.values()) for row in association.table.values()) >= 59


def test_a_column_with_other_values_in_the_task_rows_is_not_called_independent():
    images, stripes, _ = striped_rows(60, 3)
    auxiliary, _, tint = striped_rows(60, 1)
    task = images, {"label": stripes, "tint": ["yes" if value else "no" for value in stripes]}
    fast = FAST | {"steps": 2, "repeats": 2, "permutations": 1}
    found = audit(small_net(), task, (auxiliary, {"tint": tint}), ["tint"], **fast)["tint"]
    assert not found.association.known
    assert found.column.warnings[-1].startswith("the task rows have other values (no, yes), so the predicted ones count")
