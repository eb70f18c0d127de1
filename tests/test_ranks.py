"""The ranks that tests start: a fault in one is reported, and the next test gets new ones."""

import os
import time

import pytest
import ranks
import torch
import torch.distributed as dist
from ranks import ended_on_ranks, run_on_ranks


def numbered(*arguments):
    return [dist.get_rank(), dist.get_world_size(), *arguments]


def marked():
    """Whether this process was here before."""
    before = hasattr(torch, "_marked_by_a_test")
    torch._marked_by_a_test = True
    return before


def faulty(fault):
    if dist.get_rank() == 1:
        if fault == "raises":
            raise OSError("a broken file")
        if fault == "dies":
            os._exit(9)
        time.sleep(600)
    return fault


def test_each_rank_has_its_number_and_the_arguments(tmp_path):
    assert run_on_ranks(numbered, tmp_path, "a", 1, world_size=3) == [[rank, 3, "a", 1] for rank in range(3)]


def test_ranks_are_new_in_each_call(tmp_path):
    for _ in range(2):
        assert run_on_ranks(marked, tmp_path) == [False, False]


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [("raises", 1, "OSError: a broken file\n"), ("dies", 9, ""), ("hangs", -9, "rank 1 was killed after 3 s")],
)
def test_a_fault_of_a_rank_is_reported_and_ends_all(fault, code, message, tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "LONGEST", 3 if fault == "hangs" else 60)
    first, second = ended_on_ranks(faulty, tmp_path, fault)
    assert first[0] != 0
    assert second[0] == code
    assert message in second[1]
    assert run_on_ranks(numbered, tmp_path) == [[0, 2], [1, 2]]


def test_a_result_of_a_rank_that_failed_is_not_given(tmp_path):
    with pytest.raises(AssertionError, match=r"in faulty\n(.*\n)*OSError: a broken file"):
        run_on_ranks(faulty, tmp_path, "raises")
