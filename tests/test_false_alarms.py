"""Warnings are raised by what they name, and by no healthy run."""

import ast
from pathlib import Path

import pytest
import torch
from purifybench.methods import METHODS
from purifybench.tasks import TASKS
from purifybench.training import Settings, train

from wdpurify import exceptions
from wdpurify.exceptions import PurifyWarning

HEALTHY = ("PL all groups (default)", "PL two-sided, one group", "control: shuffled groups")
RUNS = 50


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(RUNS))
def test_a_healthy_run_warns_of_nothing(seed):
    task = ("colour", "photo")[seed % 2]
    backbone = ("small-bn", "small-gn")[seed // 2 % 2]
    method = HEALTHY[seed // 4 % len(HEALTHY)]
    built = TASKS[task](seed=seed)
    outcome = train(built, METHODS[method], Settings(backbone=backbone, steps=60, seed=seed), device=torch.device("cpu"))
    assert outcome.figures[-1]["gradient ratio"] >= 0


def _expected():
    """Names of the warnings that some test expects."""
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.warns":
                yield from (
                    part.attr if isinstance(part, ast.Attribute) else part.id
                    for part in ast.walk(node.args[0])
                    if isinstance(part, ast.Name | ast.Attribute)
                )


def test_each_warning_is_raised_by_a_test():
    kinds = {name for name, kind in vars(exceptions).items() if isinstance(kind, type) and issubclass(kind, PurifyWarning)}
    in_ranks = {"ResumeWarning"}  # raised on ranks, whose warnings come back by name: tests/test_interruption.py
    assert kinds - {"PurifyWarning"} - set(_expected()) == in_ranks
