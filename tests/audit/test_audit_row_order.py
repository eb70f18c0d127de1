"""Rows and labels of pandas are read by position: a shuffled index changes nothing in what the audit reads."""

import pytest
import torch
from shuffled_rows import INDICES, LABELS, ROWS, marked
from torch import nn

pandas = pytest.importorskip("pandas")
audit = pytest.importorskip("wdpurify.audit")


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_leakage_reads_the_rows_labels(index):
    found = audit.leakage(None, marked(LABELS), pandas.Series(LABELS, index=index), permutations=2)
    assert found.balanced_accuracy == 1.0


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("reads", ["nuisance", "classes"])
def test_a_feature_map_reads_the_rows_labels(index, reads):
    others = pandas.Series([row % 2 for row in range(ROWS)], index=index)
    given = {"classes": others, "nuisance": others} | {reads: pandas.Series(LABELS, index=index)}
    options = {"projection": "pca", "permutations": 2}
    (found,) = audit.feature_map({"plain": marked(LABELS)}, None, *given.values(), **options).models
    assert (found.leakage if reads == "nuisance" else found.kept).balanced_accuracy == 1.0


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("form", ["columns of a frame", "a mapping of columns", "a column of images", "a frame of rows"])
def test_an_audit_reads_the_rows_labels(index, form):
    images = [row[:, None, None].expand(3, 4, 4).clone() for row in marked(LABELS)]
    classes = [row % 2 for row in range(ROWS)]
    frame = pandas.DataFrame({"image": images, "colour": LABELS, "class": classes}, index=index)
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
