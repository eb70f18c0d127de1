"""Rows with a label that can be read from them, and indices of pandas in another order than the rows."""

import torch
from torch import nn

ROWS = 60
COLOURS = ["red", "blue", "green"]
LABELS = [COLOURS[number] for number in torch.randint(3, (ROWS,), generator=torch.Generator().manual_seed(1)).tolist()]
#: An index in another order than the rows, and one with gaps.
INDICES = {
    "shuffled": torch.randperm(ROWS, generator=torch.Generator().manual_seed(3)).tolist(),
    "filtered": [3 * row + 5 for row in range(ROWS)],
}


def marked(labels):
    """One row of numbers per label, from which the label can be read."""
    numbers = torch.tensor([COLOURS.index(label) for label in labels])
    return 4.0 * nn.functional.one_hot(numbers, 3) + 0.1 * torch.randn(
        (len(labels), 3), generator=torch.Generator().manual_seed(2)
    )


def read(rows):
    return [COLOURS[number] for number in rows.argmax(1).tolist()]
