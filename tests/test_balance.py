"""Balance: even draws over the cells of group and class, weights for the task's batches, and who is warned."""

import time
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wdpurify import GroupSampler, balanced_weights
from wdpurify._balance import cramers_v
from wdpurify._order import CellOrder
from wdpurify.exceptions import AuxiliaryDataWarning

cells_of_rows = st.lists(st.integers(0, 3), min_size=1, max_size=30)


def _biased(rows=400, bias=0.6, values=4, seed=0):
    """Groups that equal the class in a share `bias` of the rows, else any."""
    rng = np.random.default_rng(seed)
    classes = np.arange(rows) % values
    groups = np.where(rng.random(rows) < bias, classes, rng.integers(values, size=rows))
    return groups.tolist(), classes.tolist()


@given(cells_of_rows, st.integers(0, 5))
def test_every_cell_comes_once_before_any_comes_twice_and_so_its_rows(cells, seed):
    order = CellOrder(torch.arange(len(cells)), torch.tensor(cells), seed=seed, name="x")
    counts = Counter(cells)
    rounds = 2 * max(counts.values())
    rows = order.rows(torch.arange(rounds * len(counts))).tolist()
    for begin in range(0, len(rows), len(counts)):
        assert {cells[row] for row in rows[begin : begin + len(counts)]} == set(cells)
    for cell, count in counts.items():
        drawn = [row for row in rows if cells[row] == cell]
        assert len(set(drawn[:count])) == count
        assert len(set(drawn[count : 2 * count])) == count


@given(cells_of_rows, st.lists(st.integers(0, 200), min_size=1, max_size=9))
def test_a_place_of_the_order_has_its_row_whatever_was_asked_before(cells, places):
    made = [CellOrder(torch.arange(len(cells)), torch.tensor(cells), seed=1, name="x") for _ in range(2)]
    together = made[0].rows(torch.tensor(places)).tolist()
    assert together == [made[1].rows(torch.tensor([place])).item() for place in reversed(places)][::-1]


def test_groups_have_equal_shares_of_the_classes():
    groups, classes = _biased()
    sampler = GroupSampler(torch.arange(400), groups, balance=classes, batch_size=32)
    drawn = torch.cat([sampler.next_batch().images for _ in range(50)]).tolist()
    shares = Counter((groups[row], classes[row]) for row in drawn)
    assert set(shares.values()) == {100}


def test_with_one_fixed_value_both_halves_are_even_over_the_classes():
    groups, classes = _biased()
    sampler = GroupSampler(torch.arange(400), groups, fixed=2, balance=classes, batch_size=16)
    for _ in range(4):
        batch = sampler.next_batch()
        assert set(Counter(classes[row] for row in batch.images[:16].tolist()).values()) == {4}
        assert {groups[row] for row in batch.images[:16].tolist()} == {2}
        assert len({(groups[row], classes[row]) for row in batch.images[16:].tolist()}) == 16


def test_ranks_draw_together_what_one_process_draws_and_a_state_goes_on():
    groups, classes = _biased()

    def made(**share):
        return GroupSampler(torch.arange(400), groups, balance=classes, seed=3, **share)

    whole = made(batch_size=16)
    ranks = [made(batch_size=8, rank=rank, world_size=2) for rank in range(2)]
    for _ in range(3):
        parts = [rank.next_batch().images for rank in ranks]
        assert whole.next_batch().images.tolist() == torch.stack(parts, dim=1).flatten().tolist()
    resumed = made(batch_size=16)
    resumed.load_state_dict(whole.state_dict())
    assert resumed.next_batch().images.tolist() == whole.next_batch().images.tolist()
    classes[0] = classes[1]
    with pytest.raises(ValueError, match="checksum"):
        made(batch_size=16).load_state_dict(whole.state_dict())


def test_cells_without_rows_or_with_one_are_named():
    groups = ["a"] * 6 + ["b"] * 5
    classes = [0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 1]
    with pytest.warns(AuxiliaryDataWarning, match=r"of 6 cells .* 1 have no row \(\('b', 2\)\).* and 1 have one row"):
        GroupSampler(torch.arange(11), groups, balance=classes, batch_size=4)


def test_classes_that_have_one_group_each_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="Use auxiliary data from another source"):
        GroupSampler(torch.arange(8), ["a", "b"] * 4, balance=[0, 1] * 4, batch_size=4)
    with pytest.raises(ValueError, match="one class per row, got 3 classes for 8 rows"):
        GroupSampler(torch.arange(8), ["a", "b"] * 4, balance=[0, 1, 2], batch_size=4)


class _WithTargets(torch.Tensor):
    pass


@pytest.mark.parametrize(("bias", "warned"), [(0.8, True), (0.6, True), (0.1, False), (0.0, False)])
def test_an_unbalanced_sampler_warns_where_classes_go_with_groups(bias, warned):
    groups, classes = _biased(bias=bias)
    images = torch.arange(400).as_subclass(_WithTargets)
    images.targets = classes
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        GroupSampler(images, groups, batch_size=8)
        GroupSampler(images, groups, balance=classes, batch_size=8)
    assert [warning.category for warning in caught] == [AuxiliaryDataWarning] * warned


@pytest.mark.parametrize("name", [lambda target: target, ["dog", "guitar", "house", "person"].__getitem__])
def test_a_folder_that_files_images_by_their_nuisance_is_no_reason_to_warn(name):
    images = torch.arange(400).as_subclass(_WithTargets)
    images.targets = [row % 4 for row in range(400)]
    images.classes = ["dog", "guitar", "house", "person"]
    assert GroupSampler(images, [name(target) for target in images.targets], batch_size=8).n_groups == 4


def test_weights_draw_each_cell_equally_often():
    groups, classes = _biased()
    weights = balanced_weights(groups, classes)
    shares = Counter()
    for weight, cell in zip(weights.tolist(), zip(groups, classes, strict=True), strict=True):
        shares[cell] += weight
    assert len(shares) == 16
    assert all(share == pytest.approx(1 / 16) for share in shares.values())
    drawn = list(torch.utils.data.WeightedRandomSampler(weights, 4000, generator=torch.Generator().manual_seed(0)))
    counts = Counter((groups[row], classes[row]) for row in drawn)
    assert all(150 < count < 350 for count in counts.values())


def test_cramers_v_is_one_for_a_copy_and_about_zero_for_chance():
    assert cramers_v(torch.diag(torch.tensor([10, 10, 10]))) == pytest.approx(1.0)
    assert cramers_v(torch.full((3, 3), 10)) == 0.0


@pytest.mark.parametrize(
    "targets", [None, torch.zeros(400, 8), [{"box": 1}] * 400, [None] * 400, {"a": 1}, torch.rand(400), [1, 2]]
)
def test_targets_that_are_no_classes_are_passed_by(targets):
    images = torch.arange(400).as_subclass(_WithTargets)
    images.targets = targets
    assert GroupSampler(images, [0, 1] * 200, batch_size=8).n_groups == 2


def test_a_missing_class_is_named():
    with pytest.raises(ValueError, match="`balance` has no label in row 1"):
        GroupSampler(torch.arange(8), ["a", "b"] * 4, balance=[0, None, 0, 1, 1, 0, 1, 1], batch_size=4)


def test_many_cells_are_ordered_at_once():
    cells = torch.arange(200_000) % 20_000
    order = CellOrder(torch.arange(200_000), cells, seed=0, name="x")
    assert len(order) == 20_000
    assert order.rows(torch.arange(20_000)).remainder(20_000).unique().numel() == 20_000


def test_a_million_rows_in_three_hundred_thousand_cells_are_made_in_seconds_and_a_batch_costs_its_rows():
    numbers = torch.randint(300_000, (1_000_000,), generator=torch.Generator().manual_seed(0))
    groups, classes = [str(number) for number in (numbers // 3).tolist()], (numbers % 3).tolist()
    begun = time.process_time()
    with pytest.warns(AuxiliaryDataWarning):
        sampler = GroupSampler(torch.zeros(1_000_000, 1), groups, balance=classes)
    made = time.process_time()
    for _ in range(100):
        sampler.next_batch()
    assert made - begun < 10  # 1.2 s on an idle core
    assert time.process_time() - made < 2  # 0.06 s
    assert sum(len(order) for _, order in sampler._orders["population"]._kept.values()) <= 1_000_000
