"""Runs a function on several gloo processes of this machine and brings back what each returns.

Ranks are forked from one process per session that has imported torch, and so start at once; each is a new process in a new
group, and leaves nothing to the next test.
"""

import datetime
import multiprocessing
import os
import pickle
import socket
import sys
import time
import warnings
from unittest import mock

#: Imported once, before ranks are forked (the first optimiser imports `torch._dynamo`); where there is no fork, by each rank.
PRELOADED = [
    "pytest",
    "torch._dynamo",
    "torch.distributed.device_mesh",
    "torch.distributed.fsdp",
    "torch.nn.parallel",
    "wdpurify",
]
#: Seconds that ranks may take.
LONGEST = 240


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _context(fresh):
    if fresh or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _rank(called, folder, environment, timeout):
    """In a process of its own: joins the group, calls, and leaves the result, or what went wrong, in files."""
    with open(_errors(folder, environment["RANK"]), "wb") as errors:
        os.dup2(errors.fileno(), sys.stderr.fileno())
    os.environ.update(environment)
    warnings.simplefilter("error")
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=timeout))
    function, arguments = pickle.loads(called)
    torch.save(function(*arguments), folder / environment["RANK"])
    dist.barrier()
    dist.destroy_process_group()


def _errors(folder, rank):
    return folder / f"{rank}.stderr"


def ended_on_ranks(function, folder, *arguments, world_size=2, timeout=LONGEST, fresh=False):
    """Exit code and error output of each rank that calls ``function(*arguments)``, a function of a test module.

    Args:
        timeout: of their collectives, in seconds; ranks that take longer than `LONGEST` are killed.
        fresh: start an interpreter for each rank, which takes seconds: then each hashes, and orders its sets, in its own way.
    """
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1"}
    called = pickle.dumps((function, arguments))
    context = _context(fresh)
    processes = []
    for rank in range(world_size):
        _errors(folder, rank).touch()
        environment = {**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(context.Process(target=_rank, args=(called, folder, environment, timeout)))
    end = time.monotonic() + LONGEST
    late = []
    try:
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):  # for the process that they are forked from
            for process in processes:
                process.start()
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
        late = [rank for rank, process in enumerate(processes) if process.is_alive()]
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
    ends = []
    for rank, process in enumerate(processes):
        said = _errors(folder, rank).read_text(errors="replace")
        ends.append((process.exitcode, f"{said}\nrank {rank} was killed after {LONGEST} s" if rank in late else said))
    return ends


def run_on_ranks(function, folder, *arguments, world_size=2, fresh=False):
    """What ``function(*arguments)``, a function of a test module, returns on each rank; warnings there are errors."""
    ends = ended_on_ranks(function, folder, *arguments, world_size=world_size, fresh=fresh)
    assert all(code == 0 for code, _ in ends), "\n".join(error for _, error in ends)
    import torch

    return [torch.load(folder / str(rank), weights_only=True) for rank in range(world_size)]
