"""What a step costs beside the plain loop and beside other methods, measured side by side.

    python benchmarks/overhead.py --backbones small-bn small-gn
    python benchmarks/overhead.py --backbones resnet18 --batch-size 16 --rounds 5
    python benchmarks/overhead.py --backbones purifybench.pretrained:efficientnet_lite0 --batch-size 32 --image-size 64
    python benchmarks/overhead.py --backbones --benches table colour scanned

The methods take turns, a block of steps each, in an order that is shuffled every round, so that a busy machine slows all of
them alike. Reported is the median over rounds of each block's time over the plain block's time of the same round, with the
quartiles. Beside it are the calls of torch's operators per step, which do not depend on the machine. Rows are random: time does
not depend on what they show. A bench of `modalities.py` is measured on its own rows, with its own network, optimiser and batch
size.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from accelerate import PartialState
from purifybench import tables
from purifybench.adapted import network_named
from purifybench.benches import BENCHES
from purifybench.frontier import forms
from purifybench.methods import Methods, Plain, Run, every_method
from purifybench.network import Network
from purifybench.recipe import Recipe, make_optimizer
from purifybench.results import write_described
from purifybench.tasks import Auxiliary, Split, Task, to_float
from purifybench.training import wait
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GROUPS = 10


@dataclass(frozen=True)
class Arguments:
    """What a step costs.

    Attributes:
        backbones: networks, each a small one or one of the paper's by its name, a timm model, or `package.module:callable`.
        benches: benches of `modalities.py`, measured as they are trained there.
        adult: parquet file of UCI Adult, for the bench adult.
        sentences: parquet file of `text`, `label` and `source`, for the benches sentences and sentences-tuned.
        cache: folder for drawn faces and encoded sentences.
        batch_size: task rows per step; an auxiliary batch has half as many, of the default also a third and a sixth.
        image_size: pixels.
        rounds: how often each method takes its turn.
        steps: steps per turn; a multiple of six, so that every turn holds the same number of acting steps.
        frontier: the default with other numbers of auxiliary rows and acting steps, in place of other methods.
        out: where to write JSON.
    """

    backbones: tuple[str, ...] = ("small-bn", "small-gn")
    benches: tuple[str, ...] = ()
    adult: Path | None = None
    sentences: Path | None = None
    cache: Path = Path("results/modalities-cache")
    batch_size: int = 128
    image_size: int = 32
    rounds: int = 15
    steps: int = 6
    frontier: bool = False
    out: Path = Path("results/overhead.json")


class TwoUpdates(Plain):
    """Alg. 1 to the letter: plain training and Goal 2 as two forwards and two updates of the network."""

    def __init__(self, run: Run, *, batch_size: int) -> None:
        super().__init__(run)
        self.inner = every_method()["as published, to population"](run, batch_size=batch_size)
        self.optimizer: torch.optim.Optimizer | None = None

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = self.inner.loss(images, labels)
        if self.optimizer is not None:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return F.cross_entropy(self.network(images), labels)


def compared(task_rows: int, *, frontier: bool) -> Methods:
    """The methods, with auxiliary rows in proportion to the task's."""
    if frontier:
        return {"plain loop": Plain, **forms(task_rows)}
    shares = {"wdpurify, a sixth": 6, "wdpurify, a third": 3, "wdpurify, half": 2}
    half = {"batch_size": task_rows // 2}
    every = every_method()
    return {
        "plain loop": Plain,
        **{name: partial(every["wdpurify"], batch_size=max(1, task_rows // part)) for name, part in shares.items()},
        "wdpurify, one-sided": partial(every["wdpurify, one-sided, balanced"], **half),
        "wdpurify, two updates (the paper's Alg. 1)": partial(TwoUpdates, **half),
        "gradient reversal": partial(every["gradient reversal"], **half),
    }


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Time that some work takes: on a GPU what was launched before does not count, what still runs does."""
    wait(device)
    begun = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - begun


@dataclass(frozen=True)
class Subject:
    """What is trained.

    Attributes:
        task: its rows.
        network: makes a network for them.
        methods: the methods to compare, "plain loop" among them.
        batch_size: task rows per step.
        recipe: its optimiser; None is SGD with momentum.
    """

    task: Task
    network: Callable[[], Network]
    methods: Methods
    batch_size: int
    recipe: Recipe | None = None


def random_pictures(backbone: str, arguments: Arguments) -> Subject:
    """Pictures of noise with labels and groups, for a network of that name."""
    images = torch.randint(256, (1024, 3, arguments.image_size, arguments.image_size), dtype=torch.uint8)
    split = Split(images[: arguments.batch_size], torch.randint(10, (arguments.batch_size,)))
    groups = Auxiliary(images, [row % GROUPS for row in range(len(images))], fixed=0)
    task = Task("noise", GROUPS, split, split, {"clean": split}, groups)
    methods = compared(arguments.batch_size, frontier=arguments.frontier)
    return Subject(task, partial(network_named, backbone, GROUPS, {}), methods, arguments.batch_size)


def bench(name: str, arguments: Arguments) -> Subject:
    """A bench of `modalities.py`.

    Raises:
        ValueError: if there is no such bench, or its data are not given.
        ImportError: if its network needs a package that is missing.
    """
    if name not in BENCHES:
        raise ValueError(f"must be among {', '.join(BENCHES)}, got {name!r}")
    found = BENCHES[name]
    if missing := found.missing(vars(arguments)):
        raise ValueError(f"{name} needs {' and '.join(f'--{option}' for option in missing)}")
    task = found.task(0, vars(arguments))
    network = partial(network_named, found.network, task.n_classes, dict(found.network_options(task)))
    every = every_method(found.batch_size)
    methods = {"plain loop": Plain, **{name: every[name] for name in ("gradient reversal", "wdpurify")}}
    return Subject(task, network, methods, found.batch_size, found.recipe)


class Turn:
    """One method with its own network and optimiser."""

    def __init__(self, make: Callable[..., Plain], subject: Subject, device: torch.device) -> None:
        torch.manual_seed(0)
        network = subject.network().to(device)
        self.method = make(Run(network, subject.task, 0, device, steps=10_000))
        self.optimizer = make_optimizer([*network.parameters(), *self.method.parameters()], subject.recipe, 1e-3)
        if isinstance(self.method, TwoUpdates):
            self.method.optimizer = self.optimizer

    def train(self, images: Tensor, labels: Tensor, steps: int) -> None:
        """Take so many steps."""
        for _ in range(steps):
            loss = self.method.loss(images, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


class OperatorCalls(TorchDispatchMode):
    """Counts calls of torch's operators, views and reads of single numbers included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += 1
        return function(*arguments, **(named or {}))


def measure(title: str, subject: Subject, arguments: Arguments, device: torch.device) -> dict[str, dict[str, float]]:
    """Median and quartiles of the time over the plain loop's, milliseconds and operator calls per step, per method."""
    turns = {name: Turn(make, subject, device) for name, make in subject.methods.items()}
    images = to_float(subject.task.train.images[: subject.batch_size].to(device))
    labels = subject.task.train.labels[: subject.batch_size].to(device)
    turn_of = {name: partial(turn.train, images, labels, arguments.steps) for name, turn in turns.items()}
    for take in turn_of.values():
        take()
    rounds = []
    for _ in track(range(arguments.rounds), description=title):
        order = random.sample(list(turns), len(turns))
        rounds.append({name: seconds_of(turn_of[name], device) for name in order})
    found = {}
    for name, take in turn_of.items():
        ratio = np.array([one[name] / one["plain loop"] for one in rounds])
        low, median, high = np.percentile(ratio, [25, 50, 75])
        milliseconds = float(np.median([one[name] for one in rounds])) / arguments.steps * 1e3
        with OperatorCalls() as calls:
            take()
        per_step = {"milliseconds": milliseconds, "operators": calls.count / arguments.steps}
        found[name] = {"ratio": median, "low": low, "high": high, **per_step}
    return found


def subjects(arguments: Arguments) -> dict[str, Subject]:
    """What is measured, by name; says what is wrong with the arguments before anything is measured."""
    if arguments.steps % 6:
        raise SystemExit("--steps: a multiple of six, so that every turn holds the same number of acting steps")
    found = {}
    for option, names, make in (("backbones", arguments.backbones, random_pictures), ("benches", arguments.benches, bench)):
        for name in names:
            try:
                found[name] = make(name, arguments)
                found[name].network()
            except (ValueError, TypeError, ImportError) as error:
                raise SystemExit(f"--{option}: {error}") from error
    return found


def main() -> None:
    """Measure and report."""
    arguments = tyro.cli(Arguments, description=__doc__)
    chosen = subjects(arguments)
    torch.set_num_threads(1)
    device = PartialState().device
    result: dict[str, Any] = {}
    for name, subject in chosen.items():
        result[name] = measure(name, subject, arguments, device)
        shape = "x".join(map(str, subject.task.train.images.shape[1:]))
        lines = [["method", "ms/step", "time over the plain loop's", "quartiles", "operator calls"]]
        for method, row in result[name].items():
            quartiles = f"{row['low']:.2f} to {row['high']:.2f}"
            lines.append([method, f"{row['milliseconds']:.1f}", f"{row['ratio']:.2f}", quartiles, f"{row['operators']:.0f}"])
        Console().print(tables.upright(f"{name}, rows of {shape}, batch {subject.batch_size}, {device}", lines))
    write_described(arguments.out, vars(arguments), result=result)


if __name__ == "__main__":
    main()
