"""Labels of auxiliary rows: what is taken for one, what is refused, and what is warned of."""

import datetime
import decimal
import re
import warnings

import numpy as np
import pytest
import torch

from wdpurify import GroupSampler
from wdpurify.exceptions import AuxiliaryDataWarning


def _rows(images):
    return images.flatten().long().tolist()


@pytest.mark.parametrize("rare", [2, 5])
def test_a_value_that_most_batches_consist_of_is_named_with_remedies_that_work(rare):
    groups = ["bald"] * rare + ["not"] * (100 - rare)
    with pytest.warns(AuxiliaryDataWarning, match=rf"{100 - rare}% of the rows .*'not'.* hold no other") as caught:
        GroupSampler(torch.arange(100), groups, batch_size=rare).next_batch()
    message = str(caught[0].message)
    larger = int(re.search(r"`batch_size` to (\d+)", message)[1])
    assert "`fixed='bald'`" in message
    GroupSampler(torch.arange(100), groups, fixed="bald", batch_size=rare).next_batch()
    sampler = GroupSampler(torch.arange(100), groups, batch_size=larger)
    lone = sum(len(set(sampler.next_batch().groups.tolist())) == 1 for _ in range(300)) / 300
    assert 0.02 < lone < 0.15
    with pytest.warns(AuxiliaryDataWarning, match=f"Raise `batch_size` to {-(-larger // 2)}$"):
        GroupSampler(torch.arange(100), groups, batch_size=rare, rank=0, world_size=2)


@pytest.mark.parametrize(
    ("groups", "options"),
    [
        ([0] * 4 + [1] * 96, {"fixed": 0, "batch_size": 4}),
        ([0] * 9 + [1] * 91, {"batch_size": 32}),
        ([0, 1] * 50, {"batch_size": 1}),
        ([0] * 4 + [1] * 96, {"balance": [0, 1] * 50, "batch_size": 8}),
        ([0] + [1] * 19, {"batch_size": 20}),
    ],
)
def test_a_rare_value_by_itself_or_in_most_batches_is_no_reason_to_warn(groups, options):
    sampler = GroupSampler(torch.arange(len(groups)), groups, **options)
    assert len(sampler.next_batch().groups) == options["batch_size"] * (2 if "fixed" in options else 1)


@pytest.mark.parametrize("make", [lambda values: torch.tensor(values), np.array, tuple, list])
def test_labels_may_be_tensors_arrays_or_sequences(make):
    sampler = GroupSampler(np.arange(6, dtype=np.float32), make([0, 0, 1, 1, 1, 1]), fixed=1, batch_size=2)
    assert all(row >= 2 for row in _rows(sampler.next_batch().images[:2]))


@pytest.mark.parametrize("kind", [np.int64, np.float32, int, float, decimal.Decimal, "arrow"])
def test_a_quantity_is_cut_into_ranges_in_whatever_numbers_it_comes(kind):
    ages = [row % 45 + 20 for row in range(90)]
    column = pytest.importorskip("pyarrow").chunked_array([ages]) if kind == "arrow" else [kind(age) for age in ages]
    with pytest.warns(AuxiliaryDataWarning, match="45 different numbers, which are cut into ranges: 20 to"):
        assert GroupSampler(torch.arange(90), column).n_groups == 4


def test_a_null_of_an_arrow_table_is_a_missing_label():
    pyarrow = pytest.importorskip("pyarrow")
    column = pyarrow.table({"hair": ["black", "fair", None] * 4})["hair"]
    for labels in (column, column.combine_chunks()):
        with pytest.raises(ValueError, match="no label in row 2"):
            GroupSampler(torch.arange(12), labels)


@pytest.mark.parametrize("unit", ["D", "s", "ns"])
def test_dates_of_numpy_stay_dates(unit):
    dates = np.array(["2020-01-01", "2020-06-01"] * 6, dtype=f"datetime64[{unit}]")
    assert GroupSampler(torch.arange(12), dates, batch_size=2).values == (dates[0], dates[1])
    assert GroupSampler(torch.arange(12), dates, fixed=dates[0], batch_size=2).n_groups == 1
    dates[3] = np.datetime64("NaT")
    with pytest.raises(ValueError, match="no label in row 3"):
        GroupSampler(torch.arange(12), dates)


def test_labels_of_another_shape_are_named_with_the_line_that_reads_them():
    groups = [torch.tensor([row % 2]) for row in range(12)]
    with pytest.raises(ValueError, match=r"tensor of shape \(1,\) in row 0.*`\[int\(label\) for label in groups\]`"):
        GroupSampler(torch.arange(12), groups)
    assert GroupSampler(torch.arange(12), [int(label) for label in groups], batch_size=2).values == (0, 1)


def test_a_list_is_no_value_to_fix():
    with pytest.raises(TypeError, match='`fixed` must be one label value or "all", got list'):
        GroupSampler(torch.arange(12), [0, 1] * 6, fixed=[0])


def test_zero_dimensional_tensors_are_labels_by_their_value():
    sampler = GroupSampler(torch.arange(6), [torch.tensor(row % 2) for row in range(6)], batch_size=2)
    assert sampler.values == (0, 1)


class _NotAvailable:
    """Like pandas' NA: comparing it gives no truth value."""

    def __ne__(self, other):
        raise TypeError("boolean value of NA is ambiguous")

    def __hash__(self):
        return 1


@pytest.mark.parametrize("missing", [np.float32("nan"), np.datetime64("NaT"), _NotAvailable()])
def test_missing_labels_of_other_libraries_are_refused(missing):
    with pytest.raises(ValueError, match="no label in row 1"):
        GroupSampler(torch.arange(4), ["a", missing, "b", "b"], batch_size=2)


class _Hospital:
    """A label whose text is an address."""


@pytest.mark.parametrize("label", [frozenset("ab"), _Hospital(), ("a", _Hospital())])
def test_labels_that_read_differently_in_another_process_are_refused(label):
    with pytest.raises(TypeError, match=r"labels whose `repr` is equal in every process.* in row 1. Give each value a name"):
        GroupSampler(torch.arange(4), ["a", label, "b", label], batch_size=2)


@pytest.mark.parametrize("label", [("a", 1), datetime.date(2026, 1, 2), b"a", 1.5, True, np.float32(2.5)])
def test_labels_of_text_numbers_dates_and_tuples_are_taken(label):
    assert GroupSampler(torch.arange(4), ["x", label, "x", label], batch_size=2).values == ("x", label)


@pytest.mark.parametrize("groups", [{0: "a", 1: "b", 2: "a", 3: "b"}, {"a", "b", "c", "d"}])
def test_a_mapping_or_a_set_is_no_label_per_row(groups):
    with pytest.raises(TypeError, match=r"one label per row, in the order of the rows, got (dict|set)"):
        GroupSampler(torch.arange(4), groups, batch_size=2)


def test_names_of_single_rows_are_refused_and_ranges_are_taken():
    column = torch.linspace(0.0, 1.0, 40) ** 2
    with pytest.raises(ValueError, match=r"40 values in 40 rows, so most groups are a single row. .*Cut a continuous column"):
        GroupSampler(torch.arange(40), [str(value) for value in column], batch_size=8)
    assert GroupSampler(torch.arange(40), column, fixed=0.0, batch_size=1).n_groups == 1  # one value is the user's to name
    pandas = pytest.importorskip("pandas")
    for given in (column, column.tolist(), column.numpy(), pandas.Series(column.numpy(), index=range(1, 41))):
        ranges = pandas.qcut(np.asarray(given), 4).astype(str)  # the remedy of the message
        assert GroupSampler(torch.arange(40), ranges, batch_size=8).n_groups == 4


def test_many_groups_are_taken_with_a_word_on_what_they_cost():
    many = [str(row % 101) for row in range(400)]
    with pytest.warns(
        AuxiliaryDataWarning, match="101 values and a batch 8 rows, so each group occurs about once in 13"
    ) as caught:
        GroupSampler(torch.arange(400), many, batch_size=8)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GroupSampler(torch.arange(400), [str(row % 100) for row in range(400)], batch_size=8)
