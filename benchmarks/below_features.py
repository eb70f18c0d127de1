"""How much of the pull and of the task gradient is left at the parameters, beside what is told of it at the features.

    python benchmarks/below_features.py       three embedded tasks, four runs, about five minutes

The library balances two gradients at the features. What counts is their ratio at the parameters of the extractor, which it does
not see before the optimiser does. This reads both in every step: the ratio there over the ratio at the features, and what
`wdpurify.pull.coherence` makes of the features alone. Validation seeds, no test set is read.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import tyro
from purifybench import tables
from purifybench.command import refuse_wrong
from purifybench.methods import BalancedPurified, Purified
from purifybench.recipe import LEARNING_RATES, WEIGHT_DECAYS, Recipe
from purifybench.results import provenance
from purifybench.tasks import Task, biased_colour, on_own_rows, photo, tinted_shapes
from purifybench.training import Settings, train
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

#: A seed that no reported run has.
SEED = 1001


def _shapes(optimizer: str) -> tuple[Task, Any, Settings]:
    recipe = Recipe(optimizer, weight_decay=WEIGHT_DECAYS[optimizer])  # type: ignore[arg-type, index]
    settings = Settings("small-pool", 400, 32, LEARNING_RATES[optimizer], SEED, recipe)  # type: ignore[index]
    return on_own_rows(tinted_shapes.build(seed=SEED)), partial(BalancedPurified, balance=True), settings


#: Task, method and settings by name.
RUNS: dict[str, Callable[[], tuple[Task, Any, Settings]]] = {
    "colour": lambda: (biased_colour.build(seed=SEED), Purified, Settings(seed=SEED)),
    "photo": lambda: (photo.build(seed=SEED), Purified, Settings(seed=SEED)),
    "shapes, own rows, AdamW": partial(_shapes, "adamw"),
    "shapes, own rows, SGD": partial(_shapes, "sgd"),
}


class Reader:
    """Reads gradients before each step of the optimiser that trains a purified network.

    Attributes:
        readings: per step what is left of the pull over what is left of the task gradient, at the parameters and as told.
    """

    def __init__(self, make: Callable[..., Purified]) -> None:
        self.readings: list[tuple[float, float]] = []
        self._make = make
        self._method: Purified | None = None

    def make(self, *arguments: Any, **named: Any) -> Purified:
        """The method to read, as `train` asks for it."""
        self._method = self._make(*arguments, **named)
        return self._method

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._method is None or not any(group["params"][0] is self._first() for group in optimizer.param_groups):
            return
        loop = self._method.purify._loop
        controller, iteration = loop._controller, loop._iteration
        applied, task = controller.prepared_norm, controller.task_gradients.latest.norm
        if iteration is None or iteration.pull is None or not iteration.carried or applied is None or task is None:
            return
        handed = [(parameter, gradient) for parameter, gradient in iteration.pull.parameters if parameter.grad is not None]
        if not handed or not applied > 0:
            return
        below = _norm([gradient for _, gradient in handed])
        task_below = _norm([parameter.grad - gradient for parameter, gradient in handed])  # type: ignore[operator]
        left = float(below / task_below / (applied / task))
        self.readings.append((left, float(controller.coherence.ratio)))

    def _first(self) -> nn.Parameter:
        assert self._method is not None
        return next(self._method.network.parameters())


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.norm() for tensor in tensors]).norm()


def main(runs: tuple[str, ...] = tuple(RUNS), steps: int | None = None, out: Path = Path("results/below_features")) -> None:
    """Train, read, report medians over each quarter of the run.

    Args:
        runs: names of runs; all by default.
        steps: per run; that of each task by default.
        out: folder for results.
    """
    refuse_wrong(SimpleNamespace(runs=runs, steps=steps), known={"runs": RUNS}, least={"steps": 4})
    rows = [["run, at the parameters and as told", "first quarter", "second", "third", "last"]]
    found: dict[str, Any] = {}
    for name in runs:
        task, make, settings = RUNS[name]()
        reader = Reader(partial(make, batch_size=settings.batch_size // 2))
        handle = register_optimizer_step_pre_hook(reader)
        settings = replace(settings, steps=settings.steps if steps is None else steps)
        outcome = train(task, reader.make, settings, device=torch.device("cpu"), test=False)
        handle.remove()
        found[name] = {"readings": reader.readings, "accuracy": outcome.accuracy}
        quarters = torch.tensor(reader.readings).tensor_split(4)
        rows.append([name, *(", ".join(f"{value:.2f}" for value in each.median(0).values.tolist()) for each in quarters)])
    tables.show("the pull over the task gradient, over their ratio at the features", rows, out / "below_features.md")
    (out / "below_features.json").write_text(json.dumps({"runs": found, **provenance()}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
