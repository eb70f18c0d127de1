"""Kills a training without warning, again and again, and looks at how it ends."""

import contextlib
import os
import random
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
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
    alone = folder / "alone"
    begun = time.monotonic()
    failure = _finish(_start(form, alone), alone)
    duration = time.monotonic() - begun
    if failure:
        return Killed(0, False, failure)
    place = folder / "killed"
    moments = random.Random(seed)
    done = 0
    while done < kills:
        child = _start(form, place)
        if _ended_within(child, moments.uniform(0.0, 1.1 * duration)):
            if (place / END).exists():
                break
            return Killed(done, False, _said(place))
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done += 1
    if not (place / END).exists() and (failure := _finish(_start(form, place), place)):
        return Killed(done, False, failure)
    ends = [torch.load(each / END, weights_only=True) for each in (alone, place)]
    equal = all(torch.equal(value, ends[1][part][name]) for part, state in ends[0].items() for name, value in state.items())
    shutil.rmtree(folder)
    return Killed(done, equal, "")


def _start(form: str, folder: Path) -> int:
    folder.mkdir(exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # the child has ended already
            os.setpgid(child, child)  # here and there, so that it is so whoever comes first
        return child
    try:
        os.setpgid(0, 0)  # workers of its own are killed with it
        with (folder / "said.txt").open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        FORMS[form](folder)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _finish(child: int, folder: Path) -> str:
    _, status = os.waitpid(child, 0)
    return "" if status == 0 else _said(folder)


def _ended_within(child: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.002)
    return False


def _said(folder: Path) -> str:
    lines = (folder / "said.txt").read_text(errors="replace", encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else "nothing"
