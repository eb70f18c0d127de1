"""Everything that wants a GPU, in one go: the CUDA tests, the cost per step, the quick forms of all benchmarks; one report.

    make gpu        or: python benchmarks/gpu.py --out results/gpu

Without a GPU it says so and runs nothing. A part that fails does not stop the others; the exit status is 1 then. Writes
`report.md`, and what each part printed as a file of its own, to `--out`.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
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
class Arguments:
    """What a GPU is needed for.

    Attributes:
        out: folder for report and results.
    """

    out: Path = Path("results/gpu")


@dataclass(frozen=True)
class Part:
    """One command.

    Attributes:
        name: heading in the report, and file of what it prints.
        command: what to run in the repository's root.
    """

    name: str
    command: Sequence[str]


@dataclass(frozen=True)
class Finished:
    """A part that has run.

    Attributes:
        part: which.
        status: its exit status.
        seconds: how long it took.
        output: what it printed, errors included.
    """

    part: Part
    status: int
    seconds: float
    output: str


def parts(out: Path) -> list[Part]:
    """What there is to run, the quick first."""
    python = sys.executable
    bench = [python, "-W", "ignore"]
    return [
        Part("cuda-tests", [python, "-m", "pytest", "-m", "cuda", "-q", "-rs", "tests/test_cuda.py"]),
        Part("cost-small", [*bench, "benchmarks/overhead.py", "--out", f"{out}/overhead-small.json"]),
        Part(
            "cost-resnet18",
            [*bench, "benchmarks/overhead.py", "--backbones", "resnet18", "--out", f"{out}/overhead-resnet18.json"],
        ),
        Part("digits", [*bench, "benchmarks/digits.py", "--seeds", "0", "1", "--out", f"{out}/digits"]),
        Part(
            "pictures",
            [*bench, "benchmarks/pictures.py", "--seeds", "0", "--cache", f"{out}/cache", "--out", f"{out}/pictures"],
        ),
        Part("faces", [*bench, "benchmarks/fer.py", "--seeds", "0", "--cache", f"{out}/cache", "--out", f"{out}/faces"]),
    ]


def carry_out(part: Part, folder: Path) -> Finished:
    """Run a part and keep what it prints."""
    started = time.perf_counter()
    done = subprocess.run(
        part.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{part.name}.txt").write_text(done.stdout)
    return Finished(part, done.returncode, time.perf_counter() - started, done.stdout)


def report(finished: Sequence[Finished], device: str) -> str:
    """The report as Markdown: a line per part, then the end of what each printed."""
    provided = provenance()
    lines = [f"# On {device}", "", *(f"- {name}: {value}" for name, value in provided.items()), ""]
    lines += ["| part | result | seconds |", "| --- | --- | ---: |"]
    for each in finished:
        result = "passed" if each.status == 0 else f"failed with status {each.status}"
        lines.append(f"| {each.part.name} | {result} | {each.seconds:.0f} |")
    for each in finished:
        command = shlex.join(["python", *each.part.command[1:]])
        lines += ["", f"## {each.part.name}", "", f"`{command}`", "", "```"]
        lines += [*each.output.rstrip().splitlines()[-SHOWN:], "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every part, report."""
    arguments = tyro.cli(Arguments, description=__doc__)
    console = Console()
    if not torch.cuda.is_available():
        console.print("No GPU that torch can use is here, so nothing was run. The CPU's figures: make bench, make demo.")
        return
    out = arguments.out.resolve()
    finished = []
    for part in parts(out):
        console.print(f"{part.name} …")
        finished.append(carry_out(part, out))
        console.print(f"{part.name}: status {finished[-1].status}, {finished[-1].seconds:.0f} s")
        (out / "report.md").write_text(report(finished, torch.cuda.get_device_name()))
    console.print(f"report: {out / 'report.md'}")
    if any(each.status for each in finished):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
