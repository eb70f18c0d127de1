"""Rows and labels of pandas are read by position: a shuffled index changes nothing in what a sampler draws and weighs."""

import pytest
import torch
from shuffled_rows import INDICES, LABELS, ROWS, marked, read

from wdpurify import GroupSampler, balanced_weights

pandas = pytest.importorskip("pandas")


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_a_sampler_gives_each_row_its_own_label(index):
    sampler = GroupSampler(
        pandas.Series(list(marked(LABELS)), index=index),
        pandas.Series(LABELS, index=index),
        balance=pandas.Series([row % 2 for row in range(ROWS)], index=index),
        batch_size=ROWS,
    )
    batch = sampler.next_batch()
    assert [sampler.values[group] for group in batch.groups.tolist()] == read(batch.images)


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_weights_are_those_of_the_rows(index):
    classes = [row % 2 for row in range(ROWS)]
    found = balanced_weights(pandas.Series(LABELS, index=index), pandas.Series(classes, index=index))
    assert torch.equal(found, balanced_weights(LABELS, classes))
