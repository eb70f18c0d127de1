"""GroupSampler: what it draws, in which order, and what it refuses."""

import datetime
import re
import warnings
from collections import Counter

import numpy as np
import pandas
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from wdpurify import GroupSampler
from wdpurify.exceptions import ManyGroupsWarning, RareGroupWarning

labels = st.one_of(st.integers(0, 4), st.booleans(), st.text("ab", max_size=1), st.tuples(st.integers(0, 1), st.booleans()))


@st.composite
def auxiliary_sets(draw):
    """Labels of any hashable kind, one value that occurs, a batch size that its group can fill, and a seed."""
    groups = draw(st.lists(labels, min_size=2, max_size=40))
    assume(len(set(groups)) >= 2)
    fixed = draw(st.sampled_from(groups))
    batch_size = draw(st.integers(1, groups.count(fixed)))
    return groups, fixed, batch_size, draw(st.integers(0, 5))


def _rows(images):
    return images.flatten().long().tolist()


def _draw(sampler, count):
    return [sampler.next_batch() for _ in range(count)]


@given(auxiliary_sets())
def test_every_row_of_a_carries_the_label_and_b_stands_for_the_whole_set(case):
    groups, fixed, batch_size, seed = case
    sampler = GroupSampler(torch.arange(len(groups)), groups, fixed=fixed, batch_size=batch_size, seed=seed)
    for batch in _draw(sampler, 5):
        rows = _rows(batch.images)
        assert all(groups[row] == fixed for row in rows[:batch_size])
        assert batch.groups.tolist() == [0] * batch_size + [-1] * batch_size
        assert batch.population.tolist() == [False] * batch_size + [True] * batch_size


@given(auxiliary_sets())
def test_with_all_groups_each_row_belongs_to_its_own_value_and_to_the_population(case):
    groups, _, batch_size, seed = case
    sampler = GroupSampler(torch.arange(len(groups)), groups, fixed="all", batch_size=batch_size, seed=seed)
    assert sampler.n_groups == len(set(groups))
    for batch in _draw(sampler, 5):
        assert [sampler.values[group] for group in batch.groups.tolist()] == [groups[row] for row in _rows(batch.images)]
        assert batch.population.all()


@given(auxiliary_sets())
def test_nothing_repeats_within_an_epoch_and_label_frequencies_are_the_sets(case):
    groups, fixed, batch_size, seed = case
    sampler = GroupSampler(torch.arange(len(groups)), groups, fixed=fixed, batch_size=batch_size, seed=seed)
    batches = _draw(sampler, 3 * len(groups))
    drawn_a = [row for batch in batches for row in _rows(batch.images)[:batch_size]]
    drawn_b = [row for batch in batches for row in _rows(batch.images)[batch_size:]]
    members = [row for row, label in enumerate(groups) if label == fixed]
    for drawn, whole in ((drawn_a, members), (drawn_b, list(range(len(groups))))):
        for start in range(0, len(drawn) - len(whole) + 1, len(whole)):
            assert sorted(drawn[start : start + len(whole)]) == whole
    epoch = [groups[row] for row in drawn_b[: len(groups)]]
    assert Counter(epoch) == Counter(groups)


@given(auxiliary_sets(), st.integers(0, 7))
def test_order_follows_from_the_seed_and_goes_on_from_a_saved_position(case, done):
    groups, fixed, batch_size, seed = case

    def make():
        return GroupSampler(torch.arange(len(groups)), groups, fixed=fixed, batch_size=batch_size, seed=seed)

    whole = [_rows(batch.images) for batch in _draw(make(), done + 5)]
    first = make()
    _draw(first, done)
    resumed = make()
    resumed.load_state_dict(first.state_dict())
    assert [_rows(batch.images) for batch in _draw(resumed, 5)] == whole[done:]


@given(auxiliary_sets(), st.integers(2, 4))
def test_ranks_share_what_one_process_would_draw(case, world_size):
    groups, fixed, batch_size, seed = case
    groups = groups * world_size  # so that the group fills a batch on every rank
    rows = torch.arange(len(groups))

    def make(batch_size, rank, world_size):
        options = {"fixed": fixed, "batch_size": batch_size, "seed": seed, "rank": rank, "world_size": world_size}
        return GroupSampler(rows, groups, **options)

    ranks = [make(batch_size, rank, world_size) for rank in range(world_size)]
    single = make(batch_size * world_size, 0, 1)
    for _ in range(4):
        joint = [row for sampler in ranks for row in _rows(sampler.next_batch().images)]
        assert sorted(joint) == sorted(_rows(single.next_batch().images))


def test_seeds_differ_and_epochs_are_reshuffled():
    def rows(seed):
        sampler = GroupSampler(torch.arange(50), [row % 2 for row in range(50)], batch_size=50, seed=seed)
        return [_rows(batch.images) for batch in _draw(sampler, 2)]

    assert rows(0)[0] != rows(1)[0]
    assert rows(0)[0] != rows(0)[1]


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    _draw(GroupSampler(torch.arange(10), [0, 1] * 5, batch_size=4), 9)
    assert torch.equal(before, torch.get_rng_state())


def test_one_element_groups_and_rare_values_are_drawn():
    sampler = GroupSampler(torch.arange(5), ["rare", "b", "b", "b", "b"], fixed="rare", batch_size=1)
    assert {_rows(batch.images)[0] for batch in _draw(sampler, 5)} == {0}
    everything = GroupSampler(torch.arange(180), [row % 90 for row in range(180)], batch_size=7)
    assert everything.n_groups == 90
    assert len(everything.next_batch().groups) == 7


class _Images:
    """A map-style data set of (image, label) pairs that counts what is read."""

    def __init__(self, count):
        self.count, self.read = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        self.read.append(row)
        return torch.full((1, 2, 2), float(row)), "label"


def test_images_are_read_only_when_they_are_drawn():
    images = _Images(1000)
    sampler = GroupSampler(images, [row % 3 for row in range(1000)], batch_size=4)
    assert images.read == []
    batch = sampler.next_batch()
    assert len(images.read) == 4
    assert batch.images.shape == (4, 1, 2, 2)
    assert batch.images[:, 0, 0, 0].tolist() == images.read


@pytest.mark.parametrize("index", [[5, 4, 3, 2, 1, 0], [10, 20, 30, 40, 50, 60], list("abcdef")])
def test_a_column_of_pandas_is_read_by_place_and_not_by_its_index(index):
    images = pandas.Series([torch.full((1,), float(row)) for row in range(6)], index=index)
    groups = pandas.Series(list("aabbbb"), index=index)
    assert _rows(GroupSampler(images, groups, fixed="a", batch_size=2).next_batch().images[:2]) in ([0, 1], [1, 0])


def test_images_under_keys_are_refused():
    with pytest.raises(TypeError, match=r"the number of the row.*got dict: give `list\(images.values\(\)\)`"):
        GroupSampler({row: torch.zeros(1) for row in range(1, 5)}, [0, 1, 0, 1], batch_size=2)


@pytest.mark.parametrize(
    "images",
    [
        [Image.new("RGB", (4, 4)) for _ in range(4)],
        [{"image": Image.new("RGB", (4, 4))} for _ in range(4)],
        np.array([Image.new("RGB", (4, 4)) for _ in range(4)], dtype=object),
        [torch.zeros(3, size, size) for size in (2, 3, 4, 5)],
    ],
)
def test_images_that_make_no_batch_are_named_with_the_remedy(images):
    with pytest.raises((TypeError, RuntimeError), match="tensors of one shape: give the data set a transform"):
        GroupSampler(images, [0, 1, 0, 1], batch_size=2).next_batch()


@pytest.mark.parametrize("rare", [2, 5])
def test_a_value_that_most_batches_consist_of_is_named_with_remedies_that_work(rare):
    groups = ["bald"] * rare + ["not"] * (100 - rare)
    with pytest.warns(RareGroupWarning, match=rf"{100 - rare}% of the rows .*'not'.* hold no other") as caught:
        GroupSampler(torch.arange(100), groups, batch_size=rare).next_batch()
    message = str(caught[0].message)
    larger = int(re.search(r"`batch_size` to (\d+)", message)[1])
    assert "`fixed='bald'`" in message
    GroupSampler(torch.arange(100), groups, fixed="bald", batch_size=rare).next_batch()
    sampler = GroupSampler(torch.arange(100), groups, batch_size=larger)
    lone = sum(len(set(sampler.next_batch().groups.tolist())) == 1 for _ in range(300)) / 300
    assert 0.02 < lone < 0.15
    with pytest.warns(RareGroupWarning, match=f"raise `batch_size` to {-(-larger // 2)}$"):
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


def test_transform_is_applied_to_each_batch():
    sampler = GroupSampler(torch.arange(4), [0, 1, 0, 1], batch_size=4, transform=lambda images: images * 10)
    assert sorted(_rows(sampler.next_batch().images)) == [0, 10, 20, 30]


@pytest.mark.parametrize(
    ("groups", "options", "error", "message"),
    [
        (["a", "b"], {}, ValueError, "one label per image: got 2 labels for 4 images"),
        (["a"] * 4, {}, ValueError, "at least two label values, or the group is the whole set; rows per value: 'a': 4"),
        (["a"] * 4, {"fixed": "a"}, ValueError, "at least two label values"),
        (
            ["a", "b", "b", "b"],
            {"fixed": "c"},
            ValueError,
            "`fixed` must be a label value that occurs, got 'c'.*'a': 1, 'b': 3",
        ),
        (["a", "b", "b", "b"], {"fixed": "a"}, ValueError, "the group 'a' has 1 rows, fewer than `batch_size` 2"),
        (["a", "b", "b", "b"], {"batch_size": 5}, ValueError, "the set has 4 rows, fewer than `batch_size` 5"),
        (
            ["a", "b", "b", "b"],
            {"batch_size": 3, "rank": 0, "world_size": 2},
            ValueError,
            "fewer than `batch_size` 3 x 2 ranks",
        ),
        (["a", None, "b", "b"], {}, ValueError, r"no label in row 1 \(None\)"),
        ([1.0, float("nan"), 2.0, 2.0], {}, ValueError, r"no label in row 1 \(nan\)"),
        (["all", "b", "b", "b"], {}, ValueError, 'label value "all"'),
        ([["a"], "b", "b", "b"], {}, TypeError, "hashable labels, got list in row 0"),
        (torch.zeros(4, 1), {}, ValueError, r"`groups` must have shape \(rows,\), got \(4, 1\)"),
        (["a", "b", "b", "b"], {"batch_size": 0}, ValueError, "`batch_size` must be at least 1, got 0"),
        (["a", "b", "b", "b"], {"batch_size": 1.5}, TypeError, "`batch_size` must be an integer, got float"),
        (["a", "b", "b", "b"], {"rank": 1, "world_size": 1}, ValueError, r"`rank` must be in \[0, 1\), got 1"),
        (["a", "b", "b", "b"], {"rank": 1}, ValueError, "`rank` and `world_size` must be given together, got 1 and None"),
    ],
)
def test_degenerate_sets_raise_with_counts(groups, options, error, message):
    with pytest.raises(error, match=message):
        GroupSampler(torch.zeros(4, 1), groups, **({"batch_size": 2} | options))


def test_a_state_of_another_seed_is_refused():
    state = GroupSampler(torch.arange(4), [0, 1, 0, 1], batch_size=2, seed=1).state_dict()
    with pytest.raises(ValueError, match="`seed` 1, this sampler has 2"):
        GroupSampler(torch.arange(4), [0, 1, 0, 1], batch_size=2, seed=2).load_state_dict(state)


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


def test_a_state_of_other_groups_or_batches_is_refused():
    state = GroupSampler(torch.arange(6), [0, 1, 2] * 2, batch_size=2).state_dict()
    with pytest.raises(ValueError, match="saved with `groups` 0: 2, 1: 2, 2: 2"):
        GroupSampler(torch.arange(6), [2, 1, 0] * 2, batch_size=2).load_state_dict(state)
    with pytest.raises(ValueError, match="saved with `batch_size` 2, this sampler has 3"):
        GroupSampler(torch.arange(6), [0, 1, 2] * 2, batch_size=3).load_state_dict(state)


class _Hospital:
    """A label whose text is an address."""


@pytest.mark.parametrize("label", [frozenset("ab"), _Hospital(), ("a", _Hospital())])
def test_labels_that_read_differently_in_another_process_are_refused(label):
    with pytest.raises(TypeError, match=r"labels that read alike in every process.* in row 1: give each value a name"):
        GroupSampler(torch.arange(4), ["a", label, "b", label], batch_size=2)


@pytest.mark.parametrize("label", [("a", 1), datetime.date(2026, 1, 2), b"a", 1.5, True, np.float32(2.5)])
def test_labels_of_text_numbers_dates_and_tuples_are_taken(label):
    assert GroupSampler(torch.arange(4), ["x", label, "x", label], batch_size=2).values == ("x", label)


@pytest.mark.parametrize("groups", [{0: "a", 1: "b", 2: "a", 3: "b"}, {"a", "b", "c", "d"}])
def test_a_mapping_or_a_set_is_no_label_per_row(groups):
    with pytest.raises(TypeError, match=r"one label per row, in the order of the images, got (dict|set)"):
        GroupSampler(torch.arange(4), groups, batch_size=2)


def test_a_continuous_column_is_refused_and_its_ranges_are_taken():
    column = torch.linspace(0.0, 1.0, 40) ** 2
    with pytest.raises(ValueError, match="40 values in 40 rows, so most groups are a single row: a continuous column"):
        GroupSampler(torch.arange(40), column, batch_size=8)
    assert GroupSampler(torch.arange(40), column, fixed=0.0, batch_size=1).n_groups == 1  # one value is the user's to name
    ranges = torch.bucketize(column, column.quantile(torch.tensor([0.25, 0.5, 0.75])))
    assert GroupSampler(torch.arange(40), ranges, batch_size=8).n_groups == 4


def test_many_groups_are_taken_with_a_word_on_what_they_cost():
    many = [row % 101 for row in range(400)]
    with pytest.warns(
        ManyGroupsWarning, match="101 values and a batch 8 rows, so each group is met about once in 13"
    ) as caught:
        GroupSampler(torch.arange(400), many, batch_size=8)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GroupSampler(torch.arange(400), [row % 100 for row in range(400)], batch_size=8)


def test_the_rows_of_a_fixed_value_are_part_of_what_a_state_belongs_to():
    images = torch.arange(60)
    first = GroupSampler(images, [0, 1] * 30, fixed=1, batch_size=4)
    other = GroupSampler(images, [0] * 30 + [1] * 30, fixed=1, batch_size=4)
    with pytest.raises(ValueError, match="checksum of the rows' labels"):
        other.load_state_dict(first.state_dict())
