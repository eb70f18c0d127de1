"""Kills a training without warning, again and again, and looks at how it ends."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from .forms import END, FORMS, write_stream


@dataclass(frozen=True)
class Killed:
    """What became of one training.

    Attributes:
        kills: how often it was killed.
        equal: whether it ended with the very weights of the training that was left alone.
        failure: what a process that was not killed said before it failed; empty if none did.
    """

    kills: int
    equal: bool
    failure: str


def kill_and_go_on(form: str, folder: Path, *, kills: int, seed: int) -> Killed:
    """Train in one form, kill it ``kills`` times at random moments, let it go on each time, and compare its end.

    Processes are forked: call this from one that has not used a GPU or several threads. A kill that comes after the end does
    not count.

    Args:
        form: name of a form.
        folder: an empty or absent folder for what the trainings write.
        kills: SIGKILLs at most; fewer where the training is over before.
        seed: seed of the moments.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_stream(folder)
    alone, place = folder / "alone", folder / "killed"
    begun = time.monotonic()
    if failure := _failure_of(_start(form, alone), alone):
        return Killed(0, False, failure)
    duration = time.monotonic() - begun
    moments = random.Random(seed)
    done = 0
    while done < kills:
        child = _start(form, place)
        if _ended_within(child, moments.uniform(0.0, 1.1 * duration)):
            if failure := _failure_of(child, place):
                return Killed(done, False, failure)
            break
        os.killpg(child.pid, signal.SIGKILL)
        child.join()
        done += 1
    if not (place / END).exists() and (failure := _failure_of(_start(form, place), place)):
        return Killed(done, False, failure)
    ends = [torch.load(each / END, weights_only=True) for each in (alone, place)]
    equal = all(torch.equal(value, ends[1][part][name]) for part, state in ends[0].items() for name, value in state.items())
    shutil.rmtree(folder)
    return Killed(done, equal, "")


def _start(form: str, place: Path) -> BaseProcess:
    place.mkdir(exist_ok=True)
    child = multiprocessing.get_context("fork").Process(target=_train, args=(form, place))
    child.start()
    with contextlib.suppress(OSError):  # the child has ended already
        os.setpgid(child.pid, child.pid)  # here and there, so that it is so whoever comes first
    return child


def _train(form: str, place: Path) -> None:
    os.setpgid(0, 0)  # workers of its own are killed with it
    with (place / "said.txt").open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    FORMS[form](place)


def _ended_within(child: BaseProcess, seconds: float) -> bool:
    child.join(seconds)
    return child.exitcode is not None


def _failure_of(child: BaseProcess, place: Path) -> str:
    """What a training said last before it failed; empty if it ends well."""
    child.join()
    said = (place / "said.txt").read_text(errors="replace", encoding="utf-8").strip()
    return "" if child.exitcode == 0 else said.rpartition("\n")[2] or "nothing"
