"""Runs a function on several gloo processes of this machine and brings back what each returns."""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent

_CHILD = """
import datetime, importlib, os, pickle, sys, warnings
warnings.simplefilter("error")
import torch
import torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=float(sys.argv[6])))
sys.path.insert(0, sys.argv[1])
result = getattr(importlib.import_module(sys.argv[2]), sys.argv[3])(*pickle.loads(bytes.fromhex(sys.argv[5])))
torch.save(result, sys.argv[4] + "/" + str(dist.get_rank()))
dist.barrier()
dist.destroy_process_group()
"""


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def ended_on_ranks(function, folder, *arguments, world_size=2, timeout=240):
    """Exit code and error output of each rank that calls ``function(*arguments)``, a function of a test module.

    Args:
        timeout: of their collectives, in seconds; the ranks themselves may take four minutes.
    """
    port = str(free_port())
    processes = []
    for rank in range(world_size):
        environment = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": str(world_size),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "OMP_NUM_THREADS": "1",
        }
        described = [str(FOLDER), function.__module__, function.__name__, str(folder), pickle.dumps(arguments).hex()]
        command = [sys.executable, "-c", _CHILD, *described, str(timeout)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=240)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def run_on_ranks(function, folder, *arguments, world_size=2):
    """What ``function(*arguments)``, a function of a test module, returns on each rank; warnings there are errors."""
    ends = ended_on_ranks(function, folder, *arguments, world_size=world_size)
    assert all(code == 0 for code, _ in ends), "\n".join(error for _, error in ends)
    import torch

    return [torch.load(folder / str(rank), weights_only=True) for rank in range(world_size)]
