"""One training run: a task, a network, a method, so many steps; then accuracy on every test set, read once."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .backbones import build_network
from .methods import Method
from .network import Network
from .tasks import Split, Task
from .tasks._types import to_float

#: Steps between two looks at a method's figures, and between two checkpoints of a long run.
FIGURES_EVERY = 20
CHECKPOINT_EVERY = 250


@dataclass(frozen=True)
class Settings:
    """What a run depends on beside its task and method.

    Attributes:
        backbone: a name of `BACKBONES`.
        steps: optimiser steps.
        batch_size: task rows per step.
        lr: learning rate of SGD with momentum 0.9; it falls to a tenth at two thirds of the steps.
        seed: initial weights and order of the rows.
    """

    backbone: str = "small-bn"
    steps: int = 400
    batch_size: int = 64
    lr: float = 1e-2
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a run gives: accuracies in percent, seconds per step, figures by step, shares of variance per component."""

    accuracy: dict[str, float]
    seconds_per_step: float
    figures: list[dict[str, float]]
    component_shares: list[float]


def train(
    task: Task,
    make_method: Callable[..., Method],
    settings: Settings,
    *,
    device: torch.device,
    on_upper: bool = False,
    test: bool = True,
    checkpoint: Path | None = None,
) -> Outcome:
    """Train one network and measure it.

    Args:
        task: the data.
        make_method: called as ``make_method(network, task, seed=..., device=..., steps=...)``.
        settings: steps, rates, seed.
        device: where to run.
        on_upper: train on the task's unshifted rows.
        test: read the test sets; without it ``"validation"`` and ``"oracle"`` are reported, for choosing an option.
        checkpoint: file to save progress in and to go on from; removed at the end.

    Returns:
        The outcome; the same for an interrupted and resumed run, but for the seconds.
    """
    torch.manual_seed(settings.seed)
    network = build_network(settings.backbone, task.n_classes).to(device)
    method = make_method(network, task, seed=settings.seed, device=device, steps=settings.steps)
    optimizer = torch.optim.SGD([*network.parameters(), *method.parameters()], settings.lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max(1, settings.steps * 2 // 3), 0.1)
    parts = {"network": network, "method": method, "optimizer": optimizer, "scheduler": scheduler}
    done, figures = _resume(checkpoint, parts, device)
    split = task.upper if on_upper and task.upper is not None else task.train
    seconds: list[float] = []
    for step in range(done, settings.steps):
        _wait(device)
        started = time.perf_counter()
        rows = _rows(len(split.labels), step, settings)
        loss = method.loss(to_float(split.images[rows].to(device)), split.labels[rows].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        _wait(device)
        seconds.append(time.perf_counter() - started)
        if (step + 1) % FIGURES_EVERY == 0:
            figures.append({"step": step + 1, "loss": loss.item(), **method.figures()})
        if checkpoint and (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < settings.steps:
            _save(checkpoint, parts, step + 1, figures)
    splits = {"validation": task.validation}
    splits |= task.tests if test else ({} if task.oracle is None else {"oracle": task.oracle})
    accuracy = {name: _accuracy(network, part, device) for name, part in splits.items()}
    shares = _component_shares(network, list(task.tests.values())[-1], device) if test else []
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return Outcome(accuracy, sum(seconds) / max(1, len(seconds)), figures, shares)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rows(count: int, step: int, settings: Settings) -> Tensor:
    """Rows of a step: one seeded permutation per epoch, the last incomplete batch dropped."""
    batch = min(settings.batch_size, count)
    epoch, place = divmod(step, count // batch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed * 100_003 + epoch))
    return order[place * batch : (place + 1) * batch]


def _resume(checkpoint: Path | None, parts: dict[str, Any], device: torch.device) -> tuple[int, list[dict[str, float]]]:
    if checkpoint is None or not checkpoint.exists():
        return 0, []
    state = torch.load(checkpoint, map_location=device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"], state["figures"]


def _save(checkpoint: Path, parts: dict[str, Any], step: int, figures: list[dict[str, float]]) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    state = {name: part.state_dict() for name, part in parts.items()} | {"step": step, "figures": figures}
    unfinished = checkpoint.with_suffix(".unfinished")
    torch.save(state, unfinished)
    unfinished.replace(checkpoint)  # a kill while saving leaves the last whole checkpoint


@torch.no_grad()
def _features(network: Network, split: Split, device: torch.device) -> Tensor:
    network.eval()
    features = torch.cat([network.features(to_float(images.to(device))) for images in split.images.split(500)])
    network.train()
    return features


def _accuracy(network: Network, split: Split, device: torch.device) -> float:
    with torch.no_grad():
        hits = network.head(_features(network, split, device)).argmax(1) == split.labels.to(device)
    return hits.float().mean().item() * 100.0


def _component_shares(network: Network, split: Split, device: torch.device, count: int = 10) -> list[float]:
    """Shares of the features' variance in the first principal components (the paper's Fig. 2)."""
    features = _features(network, split, device).double().cpu()
    variance = torch.linalg.svdvals(features - features.mean(0)).square()
    return (variance / variance.sum().clamp(min=1e-12))[:count].tolist()


def describe(settings: Settings) -> dict[str, Any]:
    """Settings as plain values, for the results store."""
    return asdict(settings)
