"""A training of two ranks that `torchrun` starts again after one of them was killed.

The ranks of each attempt meet in a file of their own: in torchrun's store gloo may find the addresses of ranks that are gone.
"""

import subprocess
import sys

import pytest
import torch
from small_loop import equal_states

SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from wdpurify import GroupSampler, PurifyRegularizer

folder, killed, forgets = Path(sys.argv[1]), sys.argv[2] == "killed", sys.argv[3:] == ["forgets"]
torch.set_num_threads(1)
rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
dist.init_process_group("gloo", init_method=f"file://{folder}/ranks{attempt}", rank=rank, world_size=2)
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)))
groups = torch.arange(96) % 3
sampler = GroupSampler(torch.randn(96, 8) + groups[:, None], groups.tolist(), batch_size=12)
purify = PurifyRegularizer.for_model(model, sampler, strength=2.0)
criterion = purify.criterion(nn.CrossEntropyLoss())
optimizer = torch.optim.AdamW(model.parameters(), 0.01)
held, start = {"model": model, "optimizer": optimizer}, 0
if (folder / "state.pt").exists():
    state = torch.load(folder / "state.pt", weights_only=True)
    start = state["step"]
    for name, each in held.items():
        each.load_state_dict(state[name])
    if not forgets:
        purify.load_state_dict(state["purify"])
for step in range(start, 12):
    generator = torch.Generator().manual_seed(2 * step + rank)
    rows, labels = torch.randn(8, 8, generator=generator), torch.randint(3, (8,), generator=generator)
    optimizer.zero_grad()
    criterion(model(rows), labels).backward()
    if step == 7 and rank == 1 and killed and attempt == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    optimizer.step()
    if step % 3 == 2:
        state = {name: each.state_dict() for name, each in held.items()}
        state |= {"purify": purify.state_dict(all_ranks=True), "step": step + 1}
        if rank == 0:
            torch.save(state, folder / "unfinished.pt")
            (folder / "unfinished.pt").replace(folder / "state.pt")
        dist.barrier()
if rank == 0:
    end = {"model": model.module.state_dict(), "critic": purify.critic.state_dict(), "restarts": attempt}
    torch.save(end, folder / "end.pt")
dist.destroy_process_group()
"""


def _end(folder, *arguments):
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command = [*launcher, str(folder / "train.py"), str(folder), *arguments]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return torch.load(folder / "end.pt", weights_only=True)


@pytest.mark.slow
def test_ranks_that_torchrun_starts_again_after_a_kill_end_with_the_very_weights(tmp_path):
    whole, killed = _end(tmp_path / "whole", "whole"), _end(tmp_path / "killed", "killed")
    assert (whole["restarts"], killed["restarts"]) == (0, 1)
    assert equal_states(whole["model"], killed["model"])
    assert equal_states(whole["critic"], killed["critic"])
    forgotten = _end(tmp_path / "forgotten", "killed", "forgets")
    assert not equal_states(whole["model"], forgotten["model"])
