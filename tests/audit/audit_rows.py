"""Rows of stripes and tints where the truth is known, and a small network for them: what the tests of the audit share."""

import torch
from torch import nn

FAST = {"steps": 100, "repeats": 3, "permutations": 20, "batch_size": 32, "lr": 1e-2}


def small_net(norm=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(32, 2),
    )


def _images(stripes, tint, seed):
    """Stripes across or along, at any phase, so that only features made for them tell; a tint in one channel; noise."""
    generator = torch.Generator().manual_seed(seed)
    count = len(stripes)
    phase = torch.randint(4, (count, 1, 1), generator=generator)
    line = ((torch.arange(8) + phase) % 4 < 2).float().expand(count, 8, 8)
    pattern = torch.where(stripes[:, None, None] == 1, line, line.mT)
    images = 0.3 * pattern[:, None].repeat(1, 3, 1, 1)
    images[:, 0] += 0.3 * tint[:, None, None]
    return images + 0.25 * torch.randn(count, 3, 8, 8, generator=generator)


def striped_rows(count, seed, bias=0.0):
    generator = torch.Generator().manual_seed(seed)
    stripes = torch.arange(count) % 2
    free = torch.randint(2, (count,), generator=generator)
    tint = torch.where(torch.rand(count, generator=generator) < bias, stripes, free)
    return _images(stripes, tint, seed), stripes, tint


def auxiliary_rows():
    images, stripes, tint = striped_rows(600, 1)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(2))
    return images, {"tint": tint, "stripes": [("along", "across")[value] for value in stripes], "dice": tint[order]}
