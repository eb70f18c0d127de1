"""No healthy run raises a warning."""

import pytest
import torch
from purifybench.methods import METHODS
from purifybench.tasks import TASKS
from purifybench.training import Settings, train

HEALTHY = ("wdpurify", "wdpurify, one group", "control: shuffled groups")
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
