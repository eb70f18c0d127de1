"""A linear discriminant for leakage; permuted labels share the factorisation of each fold."""

import torch
import torch.nn.functional as F
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

from wdpurify._torch import derive_seed

from ._probe import PENALTY, folds

#: Least ridge, in units of the mean variance over the number of rows. A logistic regression with ``PENALTY`` has about this
#: one, as the curvature of its loss is a quarter of the variance at most. Without it, hardly any variance would count as much
#: as a lot of it.
RIDGE = 4 / PENALTY
#: Columns (labellings times values) that are solved for at once.
COLUMNS = 2000


def recalls_across(features: Tensor, codes: Tensor, *, permutations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Predict labels across folds, and labels permuted within the folds likewise.

    Standardised features, one covariance for all values, shrunk after Ledoit and Wolf or more, every value equally likely.
    Labels that are permuted within folds leave each fold as many rows of a value, so all labellings are alike if the features
    say nothing.

    Args:
        features: shape ``(rows, dim)``, on the CPU.
        codes: number of each row's value, int64, with five rows of each or more.
        permutations: how many labellings there are beside the real one.
        seed: of folds and permutations.

    Returns:
        Whether each row's value is predicted, bool, shape ``(rows,)``; balanced accuracy of each labelling, the real one first.
    """
    codes = codes.unique(return_inverse=True)[1]
    data = features.double()
    splits = [(torch.from_numpy(train), torch.from_numpy(test)) for train, test in folds(seed).split(data, codes)]
    generator = torch.Generator().manual_seed(derive_seed(seed, "permutations"))
    labellings = codes.repeat(permutations + 1, 1)
    for labels in labellings[1:]:
        for _, test in splits:
            labels[test] = labels[test[torch.randperm(len(test), generator=generator)]]
    hits = torch.empty(labellings.shape, dtype=torch.bool)
    values = int(codes.max()) + 1
    for train, test in splits:
        learned, judged, covariance, shrinkage = _prepared(data[train], data[test])
        for part in torch.arange(len(labellings)).split(max(1, COLUMNS // values)):
            chosen = labellings[part]
            scores = _scores(learned, judged, covariance, shrinkage, F.one_hot(chosen[:, train], values).double())
            hits[part[:, None], test] = scores.argmax(2) == chosen[:, test]
    member = F.one_hot(labellings, values).double()
    return hits[0], ((hits[:, :, None] * member).sum(1) / member.sum(1)).mean(1)


def _prepared(learned: Tensor, judged: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Standardise by the training rows, in their row space if dimensions outnumber them; factorise the shrunk covariance."""
    mean, spread = learned.mean(0), learned.std(0, unbiased=False)
    spread = torch.where(spread > 1e-12 * (1 + mean.abs()), spread, torch.inf)  # a constant tells nothing
    learned, judged = (learned - mean) / spread, (judged - mean) / spread
    target = float(learned.square().mean()) or 1.0
    least = RIDGE / (RIDGE + len(learned))
    shrinkage = max(least, float(ledoit_wolf_shrinkage(learned.numpy(), assume_centered=True)))
    if learned.shape[1] > len(learned):
        directions = torch.linalg.svd(learned, full_matrices=False).Vh.T
        learned, judged = learned @ directions, judged @ directions
    total = learned.T @ learned / len(learned)
    shrunk = (1 - shrinkage) * total + shrinkage * target * torch.eye(len(total), dtype=total.dtype)
    return learned, judged, torch.linalg.cholesky(shrunk), shrinkage


def _scores(learned: Tensor, judged: Tensor, factor: Tensor, shrinkage: float, member: Tensor) -> Tensor:
    """Discriminant scores ``(labellings, judged rows, values)`` of labels as unit vectors ``(labellings, rows, values)``.

    The covariance within the values is the total one less that of the means, so its inverse follows by Woodbury's identity.
    """
    counts = member.sum(1)
    means = (member / counts[:, None]).transpose(1, 2) @ learned
    flat = means.flatten(0, 1).T
    slopes = torch.cholesky_solve(flat, factor).T.view_as(means)
    shares = (1 - shrinkage) * counts / len(learned)
    inner = torch.eye(member.shape[2], dtype=means.dtype) - means @ slopes.transpose(1, 2) * shares[:, None, :]
    slopes = torch.linalg.solve(inner, slopes)
    offsets = (means * slopes).sum(2) / 2
    scores: Tensor = judged @ slopes.transpose(1, 2) - offsets[:, None]
    return scores
