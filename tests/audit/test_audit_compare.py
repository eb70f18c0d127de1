"""One table of several models on held-out rows, against figures counted by hand."""

import enum

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")
pytest.importorskip("pandas")
import pandas

from wdpurify.audit import compare, leakage


class Reads(nn.Module):
    """A classifier that takes one column for the class."""

    def __init__(self, column, wrap=lambda scores: scores):
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.wrap = wrap
        with torch.no_grad():
            self.head.weight.zero_()[1, column] = 1.0
            self.head.bias.copy_(torch.tensor([0.5, 0.0]))

    def forward(self, rows):
        return self.wrap(self.head(rows))


CLASSES = [0] * 50 + [1] * 50
HAIR = [0] * 40 + [1] * 10 + [1] * 40 + [0] * 10
ROWS = torch.tensor([CLASSES, HAIR]).T.float()


def test_the_figures_are_those_counted_by_hand():
    found = compare({"honest": Reads(0), "biased": Reads(1)}, ROWS, CLASSES, HAIR)
    assert found.table.loc["honest", ["accuracy", "mean over cells", "worst cell"]].tolist() == [100, 100, 100]
    assert found.table.loc["biased", ["accuracy", "mean over cells", "worst cell"]].tolist() == [80, 50, 0]
    expected = leakage(Reads(0), ROWS, HAIR)
    assert found.table.loc["honest", "leakage"] == 100 * expected.balanced_accuracy
    assert found.table.loc["honest", "chance"] == 100 * expected.baseline
    assert found.table.loc["honest", "output leakage"] == 80  # the class tells the hair of so many rows
    assert found.table.loc["biased", "output leakage"] == 100
    assert found.cells["rows"].to_dict() == {(0, 0): 40, (0, 1): 10, (1, 0): 10, (1, 1): 40}
    assert found.cells["biased"].to_dict() == {(0, 0): 100, (0, 1): 0, (1, 0): 0, (1, 1): 100}
    assert str(found).split()[:2] == ["accuracy", "mean"]
    assert "<table" in found._repr_html_()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda scores: (scores, None),
        lambda scores: {"loss": None, "logits": scores},
        lambda scores: scores[:, 1] - scores[:, 0],
        lambda scores: scores[:, 1:] - scores[:, :1],
        lambda scores: (scores[:, 1:] - scores[:, :1]).sigmoid(),
        lambda scores: (2.0 * scores[:, 1] - 2.0 * scores[:, 0]).sigmoid(),
    ],
    ids=["a tuple", "a mapping", "one number", "one column", "one probability", "a probability of other scores"],
)
def test_outputs_of_other_forms_are_read(wrap):
    found = compare({"net": Reads(1, wrap)}, ROWS, CLASSES, HAIR, layer="head")
    assert found.table.loc["net", "accuracy"] == 80


@pytest.mark.parametrize("last", [nn.Identity(), nn.Sigmoid(), nn.Flatten(0)])
def test_one_output_is_judged_at_zero_unless_it_is_a_probability(last):
    net = nn.Sequential(nn.Linear(2, 1), last)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.5, 0.0]]))
        net[0].bias.fill_(0.25)  # scores between 0 and 1, of which none is below 0
    found = compare({"net": net}, ROWS, CLASSES, HAIR)
    assert found.table.loc["net", "accuracy"] == 50


def test_models_may_have_any_name():
    plain, names = Reads(1), ["rows", "class", "nuisance", "accuracy"]
    found = compare(dict.fromkeys(names, plain), ROWS, CLASSES, HAIR)
    assert found.table.index.tolist() == names
    assert len(found.table.drop_duplicates()) == 1
    assert found.cells["number of rows"].tolist() == [40, 10, 10, 40]
    assert found.cells["rows"].tolist() == found.cells["class"].tolist() == [100, 0, 0, 100]


def test_outputs_without_scores_are_named():
    with pytest.raises(TypeError, match=r"`models`: 'net' must return scores.*got dict\. Wrap it in a module"):
        compare({"net": Reads(1, lambda scores: {"boxes": scores})}, ROWS, CLASSES, HAIR, layer="head")


def test_classes_by_name_and_several_nuisances():
    names = [("sad", "glad")[label] for label in CLASSES]
    groups = {"hair": HAIR, "site": ["north", "south"] * 50}
    classes = pandas.Series(["sad", "glad"], index=[7, 3])
    found = compare({"net": Reads(1)}, ROWS, names, groups, classes=classes)
    assert found.table.loc[("hair", "net"), "worst cell"] == 0
    assert found.table.loc[("site", "net"), "worst cell"] == 80
    assert found.cells.loc[("hair", "glad", 1), "rows"] == 40


class _Hair(enum.Enum):
    DARK = 0
    FAIR = 1


def test_labels_without_an_order_have_a_table():
    found = compare({"net": Reads(1)}, ROWS, CLASSES, [_Hair(hair) for hair in HAIR])
    assert found.table.equals(compare({"net": Reads(1)}, ROWS, CLASSES, HAIR).table)
    assert found.cells.loc[(1, "_Hair.FAIR"), "rows"] == 40


def test_the_models_stay_as_they_are():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    compare({"net": net}, ROWS, CLASSES, HAIR)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {}}, "`models` must name at least one model"),
        ({"labels": ["sad", "glad"] * 50}, "got 'sad'. Give `classes`, the labels in the order of the outputs"),
        ({"labels": [0, 2] * 50}, "numbers of the 2 outputs of 'net', got 2"),
        ({"labels": [0, 1]}, "one entry per row, got 2 for 100 rows"),
        ({"groups": [0, 1]}, "one entry per row, got 2 for 100 rows"),
    ],
)
def test_wrong_inputs_are_named(changes, message):
    given = {"models": {"net": Reads(0)}, "rows": ROWS, "labels": CLASSES, "groups": HAIR} | changes
    with pytest.raises(ValueError, match=message):
        compare(**given)
