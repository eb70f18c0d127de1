"""What a table says of a network beside its accuracy: its worst cell, and how well its features give the nuisance away."""

import torch
from torch import Tensor

from wdpurify.audit import leakage

#: Permuted labellings of a probe; its accuracy does not depend on them.
PERMUTATIONS = 1


def measures(features: Tensor, hits: Tensor, labels: Tensor, groups: Tensor, *, seed: int) -> dict[str, float]:
    """Figures of a test set with both labels, in percent.

    Args:
        features: what the head reads, shape ``(rows, dim)``.
        hits: whether each row's class is predicted, shape ``(rows,)``.
        labels, groups: class and nuisance of each row, int64, shape ``(rows,)``.
        seed: of the probe's folds.

    Returns:
        ``"worst cell"``, the accuracy of the (class, nuisance) pair with the lowest, and ``"leakage"``, the balanced accuracy
        of a linear probe of the nuisance, cross-validated; the latter is left out where a nuisance has fewer than ten rows.
    """
    found = {"worst cell": worst_cell(hits, labels, groups)}
    if int(torch.bincount(groups).min()) >= 10:
        probed = leakage(None, features.float(), groups, permutations=PERMUTATIONS, max_rows=len(groups), seed=seed)
        found["leakage"] = 100.0 * probed.balanced_accuracy
    return found


def worst_cell(hits: Tensor, labels: Tensor, groups: Tensor) -> float:
    """The lowest accuracy of a (class, nuisance) pair that occurs, in percent.

    >>> worst_cell(torch.tensor([True, False, True, True]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1]))
    50.0
    """
    cells = labels * (int(groups.max()) + 1) + groups
    return min(100.0 * float(hits[cells == cell].float().mean()) for cell in cells.unique())
