"""Rows and labels of pandas are read by position: a shuffled index changes nothing, anywhere they are taken."""

import pytest
import torch
from torch import nn

from wdpurify import GroupSampler, balanced_weights

pandas = pytest.importorskip("pandas")
audit = pytest.importorskip("wdpurify.audit")

ROWS = 60
COLOURS = ["red", "blue", "green"]


@pytest.fixture(params=["shuffled", "filtered"])
def index(request):
    """An index in another order than the rows, and one with gaps."""
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3)).tolist()
    return order if request.param == "shuffled" else [3 * row + 5 for row in range(ROWS)]


@pytest.fixture
def labels():
    return [COLOURS[number] for number in torch.randint(3, (ROWS,), generator=torch.Generator().manual_seed(1)).tolist()]


def _marked(labels):
    """One row of numbers per label, from which the label can be read."""
    numbers = torch.tensor([COLOURS.index(label) for label in labels])
    return 4.0 * nn.functional.one_hot(numbers, 3) + 0.1 * torch.randn(
        (len(labels), 3), generator=torch.Generator().manual_seed(2)
    )


def _read(rows):
    return [COLOURS[number] for number in rows.argmax(1).tolist()]


def test_a_sampler_gives_each_row_its_own_label(index, labels):
    sampler = GroupSampler(
        pandas.Series(list(_marked(labels)), index=index),
        pandas.Series(labels, index=index),
        balance=pandas.Series([row % 2 for row in range(ROWS)], index=index),
        batch_size=ROWS,
    )
    batch = sampler.next_batch()
    assert [sampler.values[group] for group in batch.groups.tolist()] == _read(batch.images)


def test_weights_are_those_of_the_rows(index, labels):
    classes = [row % 2 for row in range(ROWS)]
    found = balanced_weights(pandas.Series(labels, index=index), pandas.Series(classes, index=index))
    assert torch.equal(found, balanced_weights(labels, classes))


def test_leakage_reads_the_rows_labels(index, labels):
    found = audit.leakage(None, _marked(labels), pandas.Series(labels, index=index), permutations=2)
    assert found.balanced_accuracy == 1.0


@pytest.mark.parametrize("reads", ["nuisance", "classes"])
def test_a_feature_map_reads_the_rows_labels(index, labels, reads):
    others = pandas.Series([row % 2 for row in range(ROWS)], index=index)
    given = {"classes": others, "nuisance": others} | {reads: pandas.Series(labels, index=index)}
    options = {"projection": "pca", "permutations": 2}
    (found,) = audit.feature_map({"plain": _marked(labels)}, None, *given.values(), **options).models
    assert (found.leakage if reads == "nuisance" else found.kept).balanced_accuracy == 1.0


@pytest.mark.parametrize("form", ["columns of a frame", "a mapping of columns", "a column of images", "a frame of rows"])
def test_an_audit_reads_the_rows_labels(index, labels, form):
    images = [row[:, None, None].expand(3, 4, 4).clone() for row in _marked(labels)]
    classes = [row % 2 for row in range(ROWS)]
    frame = pandas.DataFrame({"image": images, "colour": labels, "class": classes}, index=index)
    rows = {
        "columns of a frame": (torch.stack(images), frame),
        "a mapping of columns": (torch.stack(images), {name: frame[name] for name in ("colour", "class")}),
        "a column of images": (frame["image"], frame),
        "a frame of rows": frame,
    }[form]
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    options = {"steps": 1, "repeats": 2, "permutations": 2}
    found = audit.audit(model, task=rows, label="class", auxiliary=rows, columns=["colour"], **options)
    assert found.columns[0].leakage.balanced_accuracy == 1.0
