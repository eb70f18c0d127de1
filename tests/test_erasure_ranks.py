"""Erasing on several ranks: all fold the same map, that of one process with all rows."""

import torch
import torch.distributed as dist
from ranks import run_on_ranks
from small_loop import equal_states, state_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from wdpurify import GroupSampler, PurifyRegularizer

ROWS = 96


def erased(rank, world_size):
    """A classifier after erasing with this rank's share of the rows, and the report."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3))
    wrapped = DistributedDataParallel(model) if world_size > 1 else model
    generator = torch.Generator().manual_seed(1)
    groups, labels = torch.arange(ROWS) % 2, torch.arange(ROWS) % 3
    rows = torch.randn((ROWS, 8), generator=generator)
    rows[:, 0] += 4.0 * groups
    rows[:, 1] += 2.0 * labels
    purify = PurifyRegularizer.for_model(wrapped, GroupSampler(rows, groups, batch_size=12 // world_size))
    unequal = slice(0, 40) if rank == 0 else slice(40, None)  # as the last batches of a sampler may be
    mine = slice(None) if world_size == 1 else unequal
    report = purify.erase([(rows[mine], labels[mine])])
    return {"model": state_of(model), "report": list(report)}


def on_rank():
    return erased(dist.get_rank(), dist.get_world_size())


def test_ranks_fold_the_map_of_one_process(tmp_path):
    alone = erased(0, 1)
    ranks = run_on_ranks(on_rank, tmp_path)
    assert equal_states(ranks[0]["model"], ranks[1]["model"])
    assert_close(ranks[0]["model"], alone["model"], rtol=1e-3, atol=1e-3)
    assert ranks[0]["report"] == ranks[1]["report"]
    assert alone["report"][-2:] == [ROWS, ROWS]
    assert_close(torch.tensor(ranks[0]["report"]), torch.tensor(alone["report"]), rtol=0, atol=0.1)
