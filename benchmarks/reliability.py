"""Trainings killed without warning in the midst of what they do: each must end with the very weights of one left alone.

    python benchmarks/reliability.py --kills 100

One small training per form of loop saves at every step, as its framework does. It is killed by SIGKILL at random moments, five
times at most, let go on, and compared, until each form has had its kills. What has been done is kept in `--out`; `--resume`
goes on from there. Needs a system that can fork (Linux, macOS); a form whose framework is not installed is passed over.
"""

import importlib
import random
from pathlib import Path
from types import SimpleNamespace

import torch
import tyro
from purifybench import tables
from purifybench.command import refuse_wrong
from purifybench.killed.forms import FORMS
from purifybench.killed.harness import kill_and_go_on
from purifybench.results import Record, ResultsStore, provenance
from rich.console import Console

#: Frameworks to import once, before anything is forked.
FRAMEWORKS = {
    "stream with workers": ("datasets", "pyarrow.parquet"),
    "Accelerate": ("accelerate",),
    "timm": ("timm.task",),
    "Lightning": ("lightning.pytorch",),
    "Trainer": ("transformers.trainer",),
}
KILLS_PER_RUN = 5


def main(
    kills: int = 100, forms: tuple[str, ...] = tuple(FORMS), out: Path = Path("results/reliability"), resume: bool = False
) -> None:
    """Kill, compare, report.

    Args:
        kills: of each form, at least.
        forms: names of forms; all by default.
        out: folder for results.
        resume: keep what is there; otherwise all is done anew.
    """
    refuse_wrong(SimpleNamespace(forms=forms), known={"forms": FORMS})
    torch.set_num_threads(1)  # a forked process must find no threads at work
    console = Console()
    store = ResultsStore(out / "results.jsonl")
    if not resume:
        store.path.unlink(missing_ok=True)
    for form in forms:
        try:
            for module in FRAMEWORKS.get(form, ()):
                importlib.import_module(module)
        except ImportError as error:
            console.print(f"{form}: passed over ({error})")
            continue
        while _kills(records := _of(store, form)) < kills and not any(record["failure"] for record in records):
            seed = random.Random(len(records)).randrange(2**31)
            killed = kill_and_go_on(form, out / "runs" / form.replace(" ", "-"), kills=KILLS_PER_RUN, seed=seed)
            key = {"form": form, "number": len(records)}
            store.add({"key": key, **vars(killed), **provenance()})
        console.print(f"{form}: {_kills(_of(store, form))} kills")
    rows = [["form", "runs", "kills", "ended equal"], *(_row(form, _of(store, form)) for form in forms)]
    tables.show("trainings killed and gone on", rows, out / "reliability.md")
    failures = {record["key"]["form"]: record["failure"] for record in store.records() if record["failure"]}
    for form, failure in failures.items():
        console.print(f"{form}: {failure}")
    if failures or not all(record["equal"] for record in store.records()):
        raise SystemExit(1)


def _of(store: ResultsStore, form: str) -> list[Record]:
    return [record for record in store.records() if record["key"]["form"] == form]


def _kills(records: list[Record]) -> int:
    return sum(record["kills"] for record in records)


def _row(form: str, records: list[Record]) -> list[str]:
    return [form, str(len(records)), str(_kills(records)), str(sum(record["equal"] for record in records))]


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
