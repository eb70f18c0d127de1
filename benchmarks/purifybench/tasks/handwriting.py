"""Real handwritten digits that scikit-learn bundles (1,797 of 8x8), split into rows that never mix."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

#: Rows per part; the rest of the 1,797 digits serves the auxiliary set.
TRAIN = 800
VALIDATION = 150
TEST = 400


class Digits(NamedTuple):
    """Ink in [0, 1], shape ``(rows, size, size)``, and the digit, shape ``(rows,)``."""

    ink: Tensor
    labels: Tensor


class Handwriting(NamedTuple):
    """Four disjoint parts."""

    train: Digits
    validation: Digits
    test: Digits
    auxiliary: Digits


def load_handwriting(image_size: int, generator: torch.Generator) -> Handwriting:
    """The digits, enlarged bilinearly to ``image_size`` pixels; the test part is the same for every seed."""
    data, target = load_digits(return_X_y=True)
    ink = torch.tensor(data, dtype=torch.float32).view(-1, 1, 8, 8) / 16.0
    ink = F.interpolate(ink, size=(image_size, image_size), mode="bilinear", align_corners=False)[:, 0]
    labels = torch.tensor(target)
    order = torch.randperm(len(ink), generator=torch.Generator().manual_seed(0))
    test = order[:TEST]
    rest = order[TEST:]
    rest = rest[torch.randperm(len(rest), generator=generator)]
    train, validation, auxiliary = rest.split([TRAIN, VALIDATION, len(rest) - TRAIN - VALIDATION])
    return Handwriting(*(Digits(ink[rows], labels[rows]) for rows in (train, validation, test, auxiliary)))


def draw_with_replacement(digits: Digits, count: int, generator: torch.Generator) -> Digits:
    """``count`` digits drawn at random, some more than once."""
    rows = torch.randint(len(digits.ink), (count,), generator=generator)
    return Digits(digits.ink[rows], digits.labels[rows])
