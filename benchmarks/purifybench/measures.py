"""What a table says of a network beside its accuracy: its worst cell, and how well its features give the nuisance away."""

import ot
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdpurify.audit import leakage
from wdpurify.functional import transferred_error_bound

#: Permuted labellings of a probe; its accuracy does not depend on them.
PERMUTATIONS = 1
#: Rows of each distribution between which W1 is computed exactly.
ROWS_OF_DISTANCE = 500


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


@torch.no_grad()
def looseness(head: nn.Linear, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """How many times larger than the error on the second distribution the bound is that Theorem 1 gives from the first.

    The ideal classifier is taken to give the labels as unit vectors and to be as steep as the head.

    Args:
        head: the classifier; its spectral norm is its Lipschitz constant.
        first, second: features ``(rows, dim)`` and labels ``(rows,)`` of two distributions.

    Source: Li et al. 2021, arXiv:2102.10955, Theorem 1 and Eq. 16; W1 by POT (Flamary et al. 2021).
    """
    errors = []
    for features, labels in (first, second):
        scores = head(features)
        ideal = F.one_hot(labels.to(scores.device), scores.shape[1])
        errors.append(float((scores - ideal).norm(dim=1).mean()))
    rows = [features[:ROWS_OF_DISTANCE].double().cpu().numpy() for features, _ in (first, second)]
    distance = float(ot.emd2([], [], ot.dist(*rows, metric="euclidean")))
    steepness = float(torch.linalg.matrix_norm(head.weight, 2))
    return transferred_error_bound(errors[0], distance, lipschitz=steepness) / max(errors[1], 1e-12)
