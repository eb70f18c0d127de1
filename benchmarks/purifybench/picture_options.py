"""Pictures as a benchmark's options say: which, how many rows of them, which network and how it is trained."""

import ast
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro

from .adapted import network_named
from .backbones import BACKBONES, reads
from .command import refuse_wrong
from .recipe import LEARNING_RATES, WEIGHT_DECAYS, OptimizerName, Recipe
from .tasks import Task
from .tasks.cells import Sizes
from .tasks.pictures import Pictures, build
from .training import Settings


@dataclass(frozen=True)
class Rows(Sizes):
    """Rows of each split, over all pairs of class and nuisance; no row is in two of training, auxiliary, validation and test.

    Attributes:
        rows: training rows; 660 for the cartoon faces, 320 for data of your own by default.
        auxiliary_rows: rows of which the nuisance alone is used.
        validation_rows: rows to choose options by.
        test_rows: rows read once.
    """

    rows: int | None = None


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


@dataclass(frozen=True)
class PictureOptions:
    """Options of a benchmark with pictures, beside those of `Runs`.

    Attributes:
        pictures: which pictures; cartoon faces by default.
        rows: rows of each split of the pictures.
        fine_tuning: network and training of the pictures.
        steps: optimiser steps per run; by default 500 on cartoon faces, 200 on data of your own, 400 on other tasks.
        cache: folder for drawn faces.
    """

    pictures: tyro.conf.OmitArgPrefixes[Pictures] = field(default_factory=Pictures)
    rows: tyro.conf.OmitArgPrefixes[Rows] = field(default_factory=Rows)
    fine_tuning: tyro.conf.OmitArgPrefixes[FineTuning] = field(default_factory=FineTuning)
    steps: int | None = None
    cache: Path = Path("results/faces-cache")

    def check_pictures(self) -> None:
        """Say what is wrong with the options before anything runs."""
        own, training = self.pictures, self.fine_tuning
        refuse_wrong(self, least={"steps": 1})
        refuse_wrong(training, least={"batch_size": 2})
        refuse_wrong(own, least={"image_size": 16})
        if bool(own.data) != bool(own.class_column) or bool(own.data) != bool(own.nuisance_column):
            raise SystemExit("--data, --class-column and --nuisance-column go together; without them there are cartoon faces")
        if training.network in BACKBONES and (training.weights or training.pretrained or training.network_options):
            raise SystemExit(f"--weights, --pretrained and --network-options: {training.network} takes none")
        if ":" in training.network and (training.weights or training.pretrained):
            raise SystemExit("--weights and --pretrained are for timm models; a callable takes --network-options")
        if training.weights and not training.weights.is_file():
            raise SystemExit(f"--weights: there is no file {training.weights}")
        if training.network in BACKBONES and not reads(training.network, own.image_size):
            raise SystemExit(f"--image-size: {own.image_size} is too small for {training.network}")

    def prepare_pictures(self, *, seed: int, bias: float) -> None:
        """Build task and network once, so that what cannot be built fails early and faces are drawn before runs share them."""
        try:
            task = self.picture_task(seed=seed, bias=bias)
            network_named(self.fine_tuning.network, task.n_classes, dict(network_options(self.fine_tuning)))
        except (ValueError, TypeError, ImportError) as error:
            raise SystemExit(str(error)) from error

    def picture_settings(self) -> Settings:
        """The settings of the runs on pictures, but for network and seed."""
        training = self.fine_tuning
        decay = WEIGHT_DECAYS[training.optimizer] if training.weight_decay is None else training.weight_decay
        return Settings(
            steps=(200 if self.pictures.data else 500) if self.steps is None else self.steps,
            batch_size=training.batch_size,
            lr=LEARNING_RATES[training.optimizer] if training.lr is None else training.lr,
            recipe=Recipe(training.optimizer, weight_decay=decay, augment=training.augment, clip=training.clip),
            network_options=network_options(training),
        )

    def picture_data(self) -> dict[str, Any]:
        """What the pictures depend on beside seed and bias."""
        return {"pictures": asdict(self.pictures), "sizes": asdict(self._sizes())}

    def picture_task(self, *, seed: int, bias: float) -> Task:
        """The pictures of a seed."""
        return build(seed=seed, cache=self.cache, chosen=self.pictures, bias=bias, sizes=self._sizes())

    def _sizes(self) -> Sizes:
        usual = 320 if self.pictures.data else 660
        return Sizes(**asdict(self.rows) | {"rows": usual if self.rows.rows is None else self.rows.rows})


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
