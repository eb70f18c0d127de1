"""GroupSampler: what it draws, in which order, and what it refuses."""

from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from wdpurify import GroupSampler

pytestmark = pytest.mark.filterwarnings("ignore::wdpurify.exceptions.AuxiliaryDataWarning")  # sets are drawn at random

labels = st.one_of(st.integers(0, 4), st.booleans(), st.text("ab", max_size=1), st.tuples(st.integers(0, 1), st.booleans()))


@st.composite
def auxiliary_sets(draw):
    """Labels of any hashable kind, one value that occurs, a batch size that its group can fill, and a seed."""
    groups = draw(st.lists(labels, min_size=2, max_size=40))
    assume(2 <= len(set(groups)) <= 10)
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


@pytest.mark.parametrize("balance", [None, [0, 0, 1] * 4])
def test_the_seed_of_a_sampler_cannot_change_under_its_order(balance):
    sampler = GroupSampler(torch.arange(12), list("ab" * 6), balance=balance, batch_size=4, seed=2)
    with pytest.raises(AttributeError):
        sampler.seed = 3
    assert sampler.seed == sampler.state_dict()["seed"] == 2


def test_a_sampler_is_an_iterator_whose_position_is_its_state():
    first, second = (GroupSampler(torch.arange(12), list("ab" * 6), batch_size=4, seed=2) for _ in range(2))
    drawn = [_rows(batch.images) for batch in islice(first, 5)]
    assert drawn == [_rows(batch.images) for batch in _draw(second, 5)]
    second.load_state_dict({**second.state_dict(), "drawn": 3})
    assert _rows(next(second).images) == drawn[3]
    assert second.state_dict()["drawn"] == 4


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
    everything = GroupSampler(torch.arange(180), [str(row % 90) for row in range(180)], batch_size=7)
    assert everything.n_groups == 90
    assert len(everything.next_batch().groups) == 7


@pytest.mark.parametrize(
    ("groups", "options", "error", "message"),
    [
        (["a", "b"], {}, ValueError, "one label per row, got 2 labels for 4 rows"),
        (["a"] * 4, {}, ValueError, "at least two label values, got one; rows per value: 'a': 4"),
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
        (torch.zeros(4, 1), {}, ValueError, "at least two values in column 0, got 1"),
        (torch.zeros(4, 1, 1), {}, ValueError, r"`groups` must have shape \(rows,\), got \(4, 1, 1\)"),
        (["a", "b", "b", "b"], {"batch_size": 0}, ValueError, "`batch_size` must be at least 1, got 0"),
        (["a", "b", "b", "b"], {"batch_size": 1.5}, TypeError, "`batch_size` must be an integer, got float"),
        (["a", "b", "b", "b"], {"rank": 1, "world_size": 1}, ValueError, r"`rank` must be in \[0, 1\), got 1"),
        (["a", "b", "b", "b"], {"rank": 1}, ValueError, "must both be given or both be None, got 1 and None"),
    ],
)
def test_degenerate_sets_raise_with_counts(groups, options, error, message):
    with pytest.raises(error, match=message):
        GroupSampler(torch.zeros(4, 1), groups, **({"batch_size": 2} | options))


def test_a_state_of_another_seed_is_refused():
    state = GroupSampler(torch.arange(4), [0, 1, 0, 1], batch_size=2, seed=1).state_dict()
    with pytest.raises(ValueError, match="`seed` 1, this sampler has 2"):
        GroupSampler(torch.arange(4), [0, 1, 0, 1], batch_size=2, seed=2).load_state_dict(state)


def test_a_state_of_other_groups_or_batches_is_refused():
    state = GroupSampler(torch.arange(6), [0, 1, 2] * 2, batch_size=2).state_dict()
    with pytest.raises(ValueError, match="saved with `groups` 0: 2, 1: 2, 2: 2"):
        GroupSampler(torch.arange(6), [2, 1, 0] * 2, batch_size=2).load_state_dict(state)
    with pytest.raises(ValueError, match="saved with `batch_size` 2, this sampler has 3"):
        GroupSampler(torch.arange(6), [0, 1, 2] * 2, batch_size=3).load_state_dict(state)


def test_the_rows_of_a_fixed_value_are_part_of_what_a_state_belongs_to():
    images = torch.arange(60)
    first = GroupSampler(images, [0, 1] * 30, fixed=1, batch_size=4)
    other = GroupSampler(images, [0] * 30 + [1] * 30, fixed=1, batch_size=4)
    with pytest.raises(ValueError, match="checksum of the rows' labels"):
        other.load_state_dict(first.state_dict())
