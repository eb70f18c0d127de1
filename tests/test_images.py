"""Images of auxiliary rows: how they are read, and which are refused by name."""

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from wdpurify import GroupSampler


def _rows(images):
    return images.flatten().long().tolist()


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


def test_samplers_of_one_column_are_alike_and_of_two_are_not():
    images, groups = pandas.Series([torch.zeros(1)] * 6), list("aabbbb")
    sampler = GroupSampler(images, groups, batch_size=2)
    assert sampler.draws_like(GroupSampler(images, groups, batch_size=3, seed=1))
    assert not sampler.draws_like(GroupSampler(images.copy(), groups, batch_size=2))


def test_images_under_keys_are_refused():
    with pytest.raises(TypeError, match=r"indexed by row number.*got dict. Give `list\(rows.values\(\)\)`"):
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
    with pytest.raises((TypeError, RuntimeError), match=r"tensors of one shape. Give the data set"):
        GroupSampler(images, [0, 1, 0, 1], batch_size=2).next_batch()


def test_transform_is_applied_to_each_batch():
    sampler = GroupSampler(torch.arange(4), [0, 1, 0, 1], batch_size=4, transform=lambda images: images * 10)
    assert sorted(_rows(sampler.next_batch().images)) == [0, 10, 20, 30]
