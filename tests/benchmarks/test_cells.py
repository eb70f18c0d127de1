"""Which rows of a picture set go where: cells of class and nuisance, splits, and the bias."""

import pytest
import torch
from purifybench.tasks.cells import Sizes, split_cells


def _cells(labels, groups):
    return torch.bincount(labels * 2 + groups, minlength=4).tolist()


@pytest.fixture
def coded():
    """Class and nuisance of 3 times 2 cells of sixty rows, in no order."""
    order = torch.randperm(360)
    return (torch.arange(360) // 120)[order], (torch.arange(360) % 2)[order]


def test_no_row_is_in_two_splits_and_all_but_the_biased_ones_have_equal_cells(coded):
    labels, groups = coded
    parts = split_cells(labels, groups, bias=0.9, sizes=Sizes(60, 60, 61, 65), seed=3)
    shared = {(first, second): set(parts[first].tolist()) & set(parts[second].tolist())
              for first in parts for second in parts if first < second}  # fmt: skip
    overlapping = {names for names, rows in shared.items() if rows}
    assert overlapping == {("train", "upper"), ("oracle", "validation")}
    assert set(parts["validation"].tolist()) < set(parts["oracle"].tolist())
    for name, rows in {"auxiliary": 10, "oracle": 10, "test": 10, "upper": 10}.items():
        chosen = parts[name]
        assert torch.bincount(labels[chosen] * 2 + groups[chosen]).tolist() == [rows] * 6, name
        assert len(set(chosen.tolist())) == 6 * rows


@pytest.mark.parametrize(("bias", "paired"), [(0.0, 0), (0.5, 10), (0.9, 18), (1.0, 20)])
def test_bias_is_the_share_of_training_rows_whose_class_has_its_partner(coded, bias, paired):
    labels, groups = coded
    parts = split_cells(labels, groups, bias=bias, sizes=Sizes(60, 60, 60, 60), seed=3)
    partners = torch.tensor([0, 1, 0])  # two nuisances for three classes: the third takes the first again
    for label in range(3):
        of_class = parts["train"][labels[parts["train"]] == label]
        assert len(of_class) == 20
        assert int((groups[of_class] == partners[label]).sum()) == paired
    shares = (groups[parts["validation"]] == partners[labels[parts["validation"]]]).float().mean().item()
    assert abs(shares - bias) < 0.05


def test_splits_are_the_same_for_a_seed_and_others_for_another(coded):
    first, again, other = (split_cells(*coded, bias=0.9, sizes=Sizes(60, 60, 60, 60), seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(rows, again[name]) for name, rows in first.items())
    assert not torch.equal(first["test"], other["test"])


def test_too_few_rows_or_cells_are_named(coded):
    labels, groups = coded
    with pytest.raises(ValueError, match="class 0 with nuisance 0 has 60 rows and needs 64"):
        split_cells(labels, groups, bias=0.9, sizes=Sizes(60, 60, 60, 156), seed=0)
    with pytest.raises(ValueError, match="`test_rows` must be at least 6, one per class and nuisance, got 5"):
        split_cells(labels, groups, bias=0.9, sizes=Sizes(60, 60, 60, 5), seed=0)
    with pytest.raises(ValueError, match="two classes and two nuisances are needed at least, got 3 and 1"):
        split_cells(labels, torch.zeros_like(groups), bias=0.9, sizes=Sizes(60, 60, 60, 60), seed=0)
