"""Everything that wants a GPU, in one go: the CUDA tests, the cost per step, the quick forms of all benchmarks; one report.

    make gpu        or: python benchmarks/gpu.py --out results/gpu

Without a GPU it says so and runs nothing. A part that fails does not stop the others; the exit status is 1 then. Writes
`report.md`, and what each part printed as a file of its own, to `--out`.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from purifybench.results import provenance
from rich.console import Console

ROOT = Path(__file__).parents[1]
#: Lines of a part's output that the report shows.
SHOWN = 60


@dataclass(frozen=True)
class Finished:
    """A part that has run.

    Attributes:
        command: what was run.
        status: its exit status.
        seconds: how long it took.
        output: what it printed, errors included.
    """

    command: Sequence[str]
    status: int
    seconds: float
    output: str


def parts(out: Path) -> dict[str, list[str]]:
    """Commands to run in the repository's root, the quick first, by the name that they have in the report."""
    bench = {
        "cost-small": f"overhead.py --out {out}/overhead-small.json",
        "cost-resnet18": f"overhead.py --backbones resnet18 --out {out}/overhead-resnet18.json",
        "digits": f"digits.py --seeds 0 1 --out {out}/digits",
        "pictures": f"pictures.py --seeds 0 --cache {out}/cache --out {out}/pictures",
        "faces": f"fer.py --seeds 0 --cache {out}/cache --out {out}/faces",
    }
    tests = [sys.executable, "-m", "pytest", "-m", "cuda", "-q", "-rs", "tests/test_cuda.py"]
    scripts = {name: [sys.executable, "-W", "ignore", *f"benchmarks/{said}".split()] for name, said in bench.items()}
    return {"cuda-tests": tests, **scripts}


def carry_out(name: str, command: Sequence[str], folder: Path) -> Finished:
    """Run a part and keep what it prints in a file of its name."""
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(done.stdout, encoding="utf-8")
    return Finished(command, done.returncode, time.perf_counter() - started, done.stdout)


def report(finished: Mapping[str, Finished], device: str) -> str:
    """The report as Markdown: a line per part, then the end of what each printed."""
    lines = [f"# On {device}", "", *(f"- {name}: {value}" for name, value in provenance().items()), ""]
    lines += ["| part | result | seconds |", "| --- | --- | ---: |"]
    for name, each in finished.items():
        result = "passed" if each.status == 0 else f"failed with status {each.status}"
        lines.append(f"| {name} | {result} | {each.seconds:.0f} |")
    for name, each in finished.items():
        lines += ["", f"## {name}", "", f"`{shlex.join(['python', *each.command[1:]])}`", "", "```"]
        lines += [*each.output.rstrip().splitlines()[-SHOWN:], "```"]
    return "\n".join(lines) + "\n"


def main(out: Path = Path("results/gpu")) -> None:
    """Run every part, report.

    Args:
        out: folder for report and results.
    """
    console = Console()
    if not torch.cuda.is_available():
        console.print("No GPU that torch can use is here, so nothing was run. The CPU's figures: make bench, make demo.")
        return
    out = out.resolve()
    finished: dict[str, Finished] = {}
    for name, command in parts(out).items():
        console.print(f"{name} …")
        finished[name] = carry_out(name, command, out)
        console.print(f"{name}: status {finished[name].status}, {finished[name].seconds:.0f} s")
        (out / "report.md").write_text(report(finished, torch.cuda.get_device_name()), encoding="utf-8")
    console.print(f"report: {out / 'report.md'}")
    if any(each.status for each in finished.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
