"""Very long trainings: does memory grow, do files stay open, does a step slow down?

    make soak        or: python benchmarks/soak.py --steps 100000

Memory counts as steady where it grows by less than a tenth of what one tensor of features a step would take.
"""

import multiprocessing
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import psutil
import torch
import tyro
from purifybench import figures, tables
from purifybench.command import refuse_wrong
from purifybench.killed import forms
from purifybench.results import Record, ResultsStore, provenance
from scipy import stats
from torch import nn

from wdpurify import PurifyRegularizer

READINGS = 100
#: Share of the readings that are left out: allocators and caches fill at first.
WARM_UP = 0.2
#: Bytes of one tensor of features.
FEATURES = 12 * forms.WIDTH * 4


def _explicit(rows: object, loop: "Loop") -> None:
    purify = PurifyRegularizer(loop.model.body, rows, feature_dim=forms.WIDTH)  # type: ignore[arg-type]

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        purify.critic_step()
        features = loop.model.body(images)
        return nn.functional.cross_entropy(loop.model.head(features), labels) + purify.loss(features)

    loop.run(loss_of, 1)


def _tapped(rows: object, loop: "Loop", *, parts: int = 1) -> None:
    purify = PurifyRegularizer.for_model(loop.model, rows)  # type: ignore[arg-type]
    criterion = purify.criterion(nn.CrossEntropyLoss())
    loop.run(lambda images, labels: criterion(loop.model(images), labels), parts)


def _plain(rows: object, loop: "Loop") -> None:
    loop.run(lambda images, labels: nn.functional.cross_entropy(loop.model(images), labels), 1)


FORMS: Mapping[str, Callable[[object, "Loop"], None]] = {
    "without purifying": _plain,
    "explicit": _explicit,
    "tapped": _tapped,
    "accumulation": partial(_tapped, parts=forms.PARTS),
    "stream with workers": _tapped,
}


class Loop:
    """A small training that reads its own process on the way.

    Args:
        steps: of the optimiser.
    """

    def __init__(self, steps: int) -> None:
        self.model = forms.Network()
        self.readings: list[tuple[int, float, int, float]] = []
        self._steps = steps

    def run(self, loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], parts: int) -> None:
        """Train; a reading is step, resident bytes, open files, seconds per step since the last one."""
        optimizer = torch.optim.SGD(self.model.parameters(), 1e-3)
        process = psutil.Process()
        batches = [forms.batch(number) for number in range(16)]
        period = max(1, self._steps // READINGS)
        began = time.perf_counter()
        for step in range(1, self._steps + 1):
            for part in range(parts):
                (loss_of(*batches[(step + part) % len(batches)]) / parts).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % period == 0:
                now = time.perf_counter()
                self.readings.append((step, process.memory_info().rss, process.num_fds(), (now - began) / period))
                began = now


def soaked(form: str, steps: int) -> list[tuple[int, float, int, float]]:
    """The readings of one form."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    loop = Loop(steps)
    with TemporaryDirectory() as folder:
        rows = forms.sampler()
        if form == "stream with workers":
            forms.write_stream(Path(folder))
            rows = forms.streamed(Path(folder, "run"))
        FORMS[form](rows, loop)
        getattr(rows, "close", bool)()
    return loop.readings


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


def main(
    steps: int = 100_000, forms: tuple[str, ...] = tuple(FORMS), workers: int = 2, out: Path = Path("results/soak")
) -> None:
    """Train, read, report; exit status 1 where memory or files grow.

    Args:
        steps: of each form.
        forms: names of forms; all by default.
        workers: forms side by side.
        out: folder for results.
    """
    refuse_wrong(SimpleNamespace(forms=forms), known={"forms": FORMS})
    store = ResultsStore(out / "results.jsonl")
    store.path.unlink(missing_ok=True)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {form: pool.submit(soaked, form, steps) for form in forms}
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
