"""How a network is fine-tuned: optimiser, one-cycle schedule, clipping and augmentation, as users have them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OptimizerName = Literal["adamw", "sgd"]
#: Peak learning rate and weight decay by optimiser, where none is given.
LEARNING_RATES: dict[OptimizerName, float] = {"adamw": 1e-3, "sgd": 2e-2}
WEIGHT_DECAYS: dict[OptimizerName, float] = {"adamw": 0.01, "sgd": 0.0}
MOMENTUM = 0.9
#: Border of an augmented image, as a share of its side: by so much the crop moves at most.
BORDER = 1 / 16


@dataclass(frozen=True)
class Recipe:
    """How a network is fine-tuned; the learning rate of the settings is the peak of a one-cycle schedule.

    Attributes:
        optimizer: AdamW, or SGD with momentum 0.9.
        weight_decay: of the optimiser.
        augment: flip and crop the task rows at random.
        clip: norm to clip the network's gradient to; None leaves it.
    """

    optimizer: OptimizerName = "adamw"
    weight_decay: float = 0.01
    augment: bool = False
    clip: float | None = None


def make_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe | None, lr: float) -> torch.optim.Optimizer:
    """The optimiser of a run; without a recipe plain SGD with momentum."""
    decay = 0.0 if recipe is None else recipe.weight_decay
    if recipe is not None and recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr, weight_decay=decay)
    return torch.optim.SGD(parameters, lr, momentum=MOMENTUM, weight_decay=decay)


def make_scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe | None, lr: float, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of a run; without a recipe the rate falls to a tenth at two thirds of the steps."""
    if recipe is None:
        return torch.optim.lr_scheduler.StepLR(optimizer, max(1, steps * 2 // 3), 0.1)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(2, steps), cycle_momentum=False)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images flipped from left to right, each moved by up to a sixteenth of its side, its border mirrored.

    Args:
        images: floats, shape ``(rows, channels, height, width)``.
        generator: on the CPU; where the draws come from.
    """
    rows, _, height, width = images.shape
    border = max(1, round(min(height, width) * BORDER))
    flipped = torch.rand(rows, generator=generator) < 0.5
    places = torch.randint(2 * border + 1, (rows, 2), generator=generator).tolist()
    turned = torch.where(flipped.to(images.device)[:, None, None, None], images.flip(3), images)
    framed = F.pad(turned, (border, border, border, border), mode="reflect")
    moved = [image[:, top : top + height, left : left + width] for image, (top, left) in zip(framed, places, strict=True)]
    return torch.stack(moved)
