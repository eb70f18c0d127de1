"""One training run: a task, a network, a method, so many steps; then accuracy on every test set, read once."""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify.integrations._files import save_whole

from .adapted import network_named
from .measures import looseness, measures
from .methods import Plain, Run
from .network import Network, features_of
from .recipe import Recipe, augmented, make_optimizer, make_scheduler
from .tasks import Split, Task, to_float

#: Steps between two looks at a method's figures, and between two checkpoints of a long run.
FIGURES_EVERY = 20
CHECKPOINT_EVERY = 250


@dataclass(frozen=True)
class Settings:
    """What a run depends on beside its task and method.

    Attributes:
        backbone: a name of `BACKBONES`, or another that `network_named` knows.
        steps: optimiser steps.
        batch_size: task rows per step.
        lr: learning rate of SGD with momentum 0.9; it falls to a tenth at two thirds of the steps.
        seed: initial weights and order of the rows.
        recipe: optimiser, one-cycle schedule and augmentation, in place of SGD as described under `lr`.
        network_options: options of a network that is not of `BACKBONES`, as pairs.
    """

    backbone: str = "small-bn"
    steps: int = 400
    batch_size: int = 64
    lr: float = 1e-2
    seed: int = 0
    recipe: Recipe | None = None
    network_options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a run gives: accuracies in percent, seconds per step, figures by step, shares of variance per component.

    `measures` are further figures of the last test set, in percent, where its irrelevant label is known; of them "statistics
    re-estimated" is the accuracy after BatchNorm's running statistics were taken anew over the training rows: with a small
    momentum those of a short run are still half the pretrained ones.
    `looseness` is by how much Theorem 1's bound from the first test set exceeds the error on the last.
    """

    accuracy: dict[str, float]
    seconds_per_step: float
    figures: list[dict[str, float]]
    component_shares: list[float]
    measures: dict[str, float]
    looseness: float | None = None


def train(
    task: Task,
    make_method: Callable[..., Plain],
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
        make_method: called as ``make_method(Run(network, task, ...))``.
        settings: steps, rates, seed.
        device: where to run.
        on_upper: train on the task's unshifted rows.
        test: read the test sets; without it ``"validation"`` and ``"oracle"`` are reported, for choosing an option.
        checkpoint: file to save progress in and to go on from; removed at the end.

    Returns:
        The outcome; the same for an interrupted and resumed run, but for the seconds.
    """
    torch.manual_seed(settings.seed)
    network = network_named(settings.backbone, task.n_classes, dict(settings.network_options)).to(device)
    method = make_method(Run(network, task, settings.seed, device, settings.steps))
    recipe = settings.recipe
    optimizer = make_optimizer([*network.parameters(), *method.parameters()], recipe, settings.lr)
    scheduler = make_scheduler(optimizer, recipe, settings.lr, settings.steps)
    parts = {"network": network, "method": method, "optimizer": optimizer, "scheduler": scheduler}
    done, figures = _resume(checkpoint, parts, device)
    split = task.upper if on_upper and task.upper is not None else task.train
    seconds: list[float] = []
    for step in range(done, settings.steps):
        wait(device)
        started = time.perf_counter()
        rows = method.rows(step, _rows(len(split.labels), step, settings))
        loss = method.loss(_images(split, rows, step, settings, device), split.labels[rows].to(device))
        optimizer.zero_grad()
        loss.backward()
        if recipe is not None and recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimizer.step()
        scheduler.step()
        wait(device)
        seconds.append(time.perf_counter() - started)
        if (step + 1) % FIGURES_EVERY == 0:
            figures.append({"step": step + 1, "loss": loss.item(), **method.figures()})
        if checkpoint and (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < settings.steps:
            _save(checkpoint, parts, step + 1, figures)
    finished = method.finish()
    splits = {"validation": task.validation}
    splits |= task.tests if test else ({} if task.oracle is None else {"oracle": task.oracle})
    accuracy = {name: _accuracy(network, part, device) for name, part in splits.items()}
    shares: list[float] = []
    loose = None
    if test:
        tests = list(task.tests.values())
        first, last = tests[0], tests[-1]
        shares = _component_shares(network, last, device)
        finished |= _measures(network, last, split, device, settings.seed) if last.groups is not None else {}
        loose = looseness(network.head, *((features_of(network, end.images, device), end.labels) for end in (first, last)))
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return Outcome(accuracy, sum(seconds) / max(1, len(seconds)), figures, shares, finished, loose)


def wait(device: torch.device) -> None:
    """Until a GPU has done what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rows(count: int, step: int, settings: Settings) -> Tensor:
    """Rows of a step: one seeded permutation per epoch, the last incomplete batch dropped."""
    batch = min(settings.batch_size, count)
    epoch, place = divmod(step, count // batch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed * 100_003 + epoch))
    return order[place * batch : (place + 1) * batch]


def _images(split: Split, rows: Tensor, step: int, settings: Settings, device: torch.device) -> Tensor:
    """The task images of a step; what augmentation does to them depends on seed and step alone."""
    images = to_float(split.images[rows].to(device))
    if settings.recipe is None or not settings.recipe.augment:
        return images
    return augmented(images, torch.Generator().manual_seed(settings.seed * 100_003 + step))


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
    save_whole(state, checkpoint)  # a kill while saving leaves the last whole checkpoint


def _accuracy(network: Network, split: Split, device: torch.device) -> float:
    with torch.no_grad():
        hits = network.head(features_of(network, split.images, device)).argmax(1) == split.labels.to(device)
    return hits.float().mean().item() * 100.0


def _measures(network: Network, split: Split, train: Split, device: torch.device, seed: int) -> dict[str, float]:
    features = features_of(network, split.images, device)
    with torch.no_grad():
        hits = network.head(features).argmax(1).cpu() == split.labels
    found = measures(features.cpu(), hits, split.labels, split.groups, seed=seed)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        fresh = copy.deepcopy(network)
        batches = (to_float(images.to(device)) for images in train.images.split(64))
        torch.optim.swa_utils.update_bn(batches, fresh)
        found["statistics re-estimated"] = _accuracy(fresh, split, device)
    return found


def _component_shares(network: Network, split: Split, device: torch.device, count: int = 10) -> list[float]:
    """Shares of the features' variance in the first principal components (the paper's Fig. 2)."""
    features = features_of(network, split.images, device).double().cpu()
    variance = torch.linalg.svdvals(features - features.mean(0)).square()
    return (variance / variance.sum().clamp(min=1e-12))[:count].tolist()


def describe(settings: Settings) -> dict[str, Any]:
    """Settings as plain values, for the results store; later fields only where they are not at their defaults.

    So the keys of older stores stay valid.
    """
    later = ("recipe", "network_options")
    usual = {field.name for field in fields(settings) if field.name in later and getattr(settings, field.name) == field.default}
    return {name: value for name, value in asdict(settings).items() if name not in usual}
