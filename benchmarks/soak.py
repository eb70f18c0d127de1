"""Very long trainings: does memory grow, do files stay open, does a step slow down?

    make soak        or: python benchmarks/soak.py --steps 100000

Memory counts as steady where it grows by less than a tenth of what one tensor of features a step would take.
"""

import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import torch
import tyro
from purifybench import figures, tables
from purifybench.killed import forms
from purifybench.results import Record, ResultsStore, provenance
from scipy import stats

from wdpurify.exceptions import GroupsApartWarning

READINGS = 100
#: Share of the readings that are left out: allocators and caches fill at first.
WARM_UP = 0.2
#: Bytes of one tensor of features.
FEATURES = 12 * forms.WIDTH * 4


#: Name -> how its loop is made, and micro-batches per step.
FORMS: Mapping[str, tuple[Callable[[Any], forms.Loop], int]] = {
    "without purifying": (lambda rows: forms.Loop(None, tapped=True), 1),
    "explicit": (partial(forms.Loop, tapped=False), 1),
    "tapped": (partial(forms.Loop, tapped=True), 1),
    "accumulation": (partial(forms.Loop, tapped=True), forms.PARTS),
    "stream with workers": (partial(forms.Loop, tapped=True), 1),
}


def soaked(form: str, steps: int) -> list[tuple[int, float, int, float]]:
    """The readings of one form in this process: step, resident bytes, open files, seconds per step since the last one."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", GroupsApartWarning)  # true of these groups, however long the training is
    make, parts = FORMS[form]
    with TemporaryDirectory() as folder:
        if form == "stream with workers":
            forms.write_stream(Path(folder))
            rows = forms.streamed(Path(folder, "run"))
        else:
            rows = forms.sampler()
        readings = list(_readings(make(rows), steps, parts))
        getattr(rows, "close", bool)()
    return readings


def _readings(loop: forms.Loop, steps: int, parts: int) -> Iterator[tuple[int, float, int, float]]:
    optimizer = torch.optim.SGD(loop.model.parameters(), 1e-3)
    process = psutil.Process()
    batches = [forms.batch(number) for number in range(16)]
    period = max(1, steps // READINGS)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        for part in range(parts):
            (loop.loss(*batches[(step + part) % len(batches)]) / parts).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % period == 0:
            now = time.perf_counter()
            yield step, process.memory_info().rss, process.num_fds(), (now - began) / period
            began = now


def summary(readings: list[list[float]]) -> dict[str, float]:
    """Bytes per step by which memory grows after the warm-up, its 95 % interval's half width, open files, time per step."""
    late = np.array(readings[int(WARM_UP * len(readings)) :])
    line = stats.linregress(late[:, 0], late[:, 1])
    half_width = float(line.stderr * stats.t.ppf(0.975, len(late) - 2))
    tenth = max(1, len(late) // 10)
    return {
        "bytes": float(line.slope),
        "half width": half_width,
        "files": float(late[-1, 2] - late[0, 2]),
        "first": 1e3 * float(np.median(late[:tenth, 3])),
        "last": 1e3 * float(np.median(late[-tenth:, 3])),
    }


def main(steps: int = 100_000, out: Path = Path("results/soak")) -> None:
    """Train two forms side by side at a time, read, report; exit status 1 where memory or files grow.

    Args:
        steps: of each form.
        out: folder for results.
    """
    store = ResultsStore(out / "results.jsonl")
    store.path.unlink(missing_ok=True)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {form: pool.submit(soaked, form, steps) for form in FORMS}
        for form, readings in running.items():
            store.add({"key": {"form": form, "steps": steps}, "readings": readings.result(), **provenance()})
    records = store.records()
    heads = ["form", "steps", "memory, bytes per step", "open files", "first ms per step", "last ms per step"]
    rows = [heads, *map(_row, records)]
    tables.show("very long trainings", rows, out / "soak.md")
    figures.soak({record["key"]["form"]: record["readings"] for record in records}, out / "soak.png")
    if grown := [record["key"]["form"] for record in records if grows(summary(record["readings"]))]:
        raise SystemExit(f"memory or open files grow in: {', '.join(grown)}")


def grows(found: Mapping[str, float]) -> bool:
    """Whether memory grows by more than the interval and a tenth of a tensor of features a step, or open files grow."""
    return found["bytes"] - found["half width"] > FEATURES / 10 or found["files"] > 0


def _row(record: Record) -> list[str]:
    found = summary(record["readings"])
    grown = f"{found['bytes']:+.1f} ± {found['half width']:.1f}"
    times = (f"{found['first']:.2f}", f"{found['last']:.2f}")
    return [record["key"]["form"], str(record["key"]["steps"]), grown, f"{found['files']:+.0f}", *times]


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
