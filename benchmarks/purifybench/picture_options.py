"""Options of the picture benchmark: which pictures, how many rows of them, which network and how it is trained."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .recipe import WEIGHT_DECAYS, OptimizerName, Recipe


@dataclass(frozen=True)
class Pictures:
    """Which pictures; cartoon faces by default.

    Attributes:
        data: parquet files, a folder that `datasets.load_dataset` opens such as an image folder, or a hub id (`id` or
            `id:config`).
        image_column: name of the image column.
        class_column: name of the column to predict, of `data`.
        nuisance_column: name of the column to purify of, of `data`.
        classes: classes to use, in the order in which they are paired with nuisances; all by default.
        nuisances: nuisances to use; all by default.
        image_size: pixels.
    """

    data: tuple[str, ...] = ()
    image_column: str = "image"
    class_column: str | None = None
    nuisance_column: str | None = None
    classes: tuple[str, ...] = ()
    nuisances: tuple[str, ...] = ()
    image_size: int = 32


@dataclass(frozen=True)
class Rows:
    """Rows of each split, over all pairs of class and nuisance; no row is in two of training, auxiliary, validation and test.

    Attributes:
        rows: training rows; 660 for the cartoon faces, 320 for data of your own by default.
        auxiliary_rows: rows of which the nuisance alone is used.
        validation_rows: rows to choose options by.
        test_rows: rows read once.
    """

    rows: int | None = None
    auxiliary_rows: int = 320
    validation_rows: int = 256
    test_rows: int = 320


@dataclass(frozen=True)
class FineTuning:
    """Which network, and how it is trained.

    Attributes:
        network: a small one by its name, such as small-bn; a timm model; or `package.module:callable`, which returns a module.
        network_options: `key=value` for the callable or for timm's create_model.
        weights: file of pretrained weights, for a timm model.
        pretrained: take timm's pretrained weights from the hub.
        optimizer: adamw, or sgd with momentum 0.9; either with a one-cycle schedule.
        lr: peak learning rate; 1e-3 for adamw, 2e-2 for sgd by default.
        weight_decay: 0.01 for adamw, 0 for sgd by default.
        batch_size: task rows per step.
        augment: flip and crop task rows at random.
        clip: norm to clip the gradient to; not at all by default.
    """

    network: str = "small-bn"
    network_options: tuple[str, ...] = ()
    weights: Path | None = None
    pretrained: bool = False
    optimizer: OptimizerName = "adamw"
    lr: float | None = None
    weight_decay: float | None = None
    batch_size: int = 32
    augment: bool = False
    clip: float | None = None


def recipe(training: FineTuning) -> Recipe:
    """How the network is trained."""
    decay = WEIGHT_DECAYS[training.optimizer] if training.weight_decay is None else training.weight_decay
    return Recipe(training.optimizer, weight_decay=decay, augment=training.augment, clip=training.clip)


def network_options(training: FineTuning) -> tuple[tuple[str, Any], ...]:
    """Options of the network as pairs; a value that is a Python literal is taken as one, other values as text."""
    pairs: dict[str, Any] = {}
    for given in training.network_options:
        name, equals, value = given.partition("=")
        if not (name and equals):
            raise SystemExit(f"--network-options: expected key=value, got {given!r}")
        try:
            pairs[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pairs[name] = value
    pairs |= {"weights": str(training.weights)} if training.weights else {}
    pairs |= {"pretrained": True} if training.pretrained else {}
    return tuple(sorted(pairs.items()))
