"""A grid of runs on many machines: each point of the grid is one job of Slurm, or one local process, by submitit.

    python benchmarks/sweep.py fer.py --over seeds=0,1,2,3,4 --over backbones=small-bn,small-gn --fixed steps=500
    python benchmarks/sweep.py digits.py --over backbones=resnet18,vgg11 --executor slurm --slurm partition=gpu gpus_per_node=1

Every job is a call of the script with `--resume` and an `--out` folder of its own below `--out`: start the same sweep again
after a kill, and finished runs are kept. Within a job the runs are shared by Accelerate (`--launch num_processes=4`). When
all are done, the results are put together as by `benchmarks/report.py`.
"""

import itertools
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import report
import tyro
from purifybench import paper_tables
from rich.console import Console
from rich.progress import Progress

Given = Annotated[list[str], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class Arguments:
    """A grid of runs.

    Attributes:
        script: which benchmark.
        over: `option=value,value,...` of the script, once per axis of the grid.
        fixed: `option=value` of the script, the same in all jobs; values with spaces are several, but for quoted ones.
        executor: local processes, or Slurm.
        parallel: jobs at a time; 1 by default for local ones, which then use all cores, and no limit for Slurm.
        slurm: `parameter=value` of submitit's Slurm executor, without its prefix.
        minutes: time limit of a job.
        launch: options of `accelerate launch`, as `name=value`, or `name` alone for a switch.
        out: folder for results, one below it per job.
        dry_run: print the commands alone.
    """

    script: Annotated[Literal["digits.py", "fer.py", "pictures.py"], tyro.conf.Positional]
    over: Given = field(default_factory=list)
    fixed: Given = field(default_factory=list)
    executor: Literal["local", "slurm"] = "local"
    parallel: int | None = None
    slurm: tuple[str, ...] = ()
    minutes: int = 24 * 60
    launch: tuple[str, ...] = ()
    out: Path = Path("results/sweep")
    dry_run: bool = False


def main() -> None:
    """Expand the grid, run the jobs, put their results together."""
    arguments = tyro.cli(Arguments, description=__doc__)
    console = Console(width=max(Console().width, 120))
    commands = dict(expand(arguments))
    if arguments.dry_run:
        for command in commands.values():
            console.print(shlex.join(command), soft_wrap=True)
        return
    failed = run(commands, arguments)
    for name, reason in failed.items():
        console.print(f"{name}: failed, see {arguments.out / name / 'log'}: {reason}", soft_wrap=True)
    if len(failed) < len(commands):
        paper_tables.write(report.read((arguments.out,)), arguments.out / "report", console)
        console.print(f"tables and figures of {len(commands) - len(failed)} jobs: {arguments.out / 'report'}")
    if failed:
        raise SystemExit(f"{len(failed)} of {len(commands)} jobs failed; start the sweep again to go on")


def expand(arguments: Arguments) -> Iterator[tuple[str, list[str]]]:
    """Name and command of every job."""
    axes = [(name, values.split(",")) for name, values in _pairs(arguments.over, "over")]
    fixed = [part for name, values in _pairs(arguments.fixed, "fixed") for part in (f"--{name}", *shlex.split(values))]
    for name in ("out", "resume"):
        if f"--{name}" in fixed or name in dict(axes):
            raise SystemExit(f"--{name}: the sweep gives each job its own")
    script = Path(__file__).with_name(arguments.script)
    options = [part for given in arguments.launch for part in f"--{given.lstrip('-')}".split("=", 1)]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *options, str(script)]
    for point in itertools.product(*(values for _, values in axes)):
        chosen = list(zip((name for name, _ in axes), point, strict=True))
        name = "_".join(f"{option}={value}" for option, value in chosen) or "all"
        options = [part for option, value in chosen for part in (f"--{option}", value)]
        yield name, [*launch, *options, *fixed, "--resume", "--out", str(arguments.out / name)]


def run(commands: dict[str, list[str]], arguments: Arguments) -> dict[str, str]:
    """Do the jobs, so many at a time; the last line of what the failed ones said, by name."""
    import submitit  # here, as a list of commands needs none

    slurm = {f"slurm_{name}": value for name, value in _pairs(arguments.slurm, "slurm")}
    if slurm and arguments.executor != "slurm":
        raise SystemExit("--slurm needs --executor slurm")
    limit = arguments.parallel or (1 if arguments.executor == "local" else len(commands))
    waiting = list(commands)
    running = {}
    failed = {}
    with Progress() as progress:
        bar = progress.add_task("jobs", total=len(commands))
        while waiting or running:
            while waiting and len(running) < limit:
                name = waiting.pop(0)
                executor = submitit.AutoExecutor(arguments.out / name / "log", cluster=arguments.executor)
                executor.update_parameters(timeout_min=arguments.minutes, name=f"wdpurify {name}", **slurm)
                running[name] = executor.submit(submitit.helpers.CommandFunction(commands[name], verbose=False))
            time.sleep(0.5)
            for name in [name for name, job in running.items() if job.done()]:
                error = running.pop(name).exception()
                if error is not None:
                    failed[name] = _reason(str(error))
                progress.advance(bar)
    return failed


def _reason(said: str) -> str:
    """What the script itself said last, out of all that its launcher and submitit put around it."""
    own = said.partition("FailedJobError: ")[2].partition("\n-----")[0].splitlines()
    told = [line for line in own if line.strip() and not line.startswith((" ", "Traceback", "subprocess.CalledProcessError"))]
    return told[-1] if told else said.strip().splitlines()[-1]


def _pairs(given: Iterable[str], option: str) -> list[tuple[str, Any]]:
    pairs = []
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise SystemExit(f"--{option}: expected name=value, got {text!r}")
        pairs.append((name.lstrip("-"), value))
    return pairs


if __name__ == "__main__":
    main()
