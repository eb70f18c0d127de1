"""The formulas of Purified Learning, on plain tensors.

Every function here is pure: no state, no randomness, no host synchronisation. Two tensors describe a batch of auxiliary rows:
``groups`` is each row's group (-1: none), and ``population`` marks the rows that stand for the whole auxiliary set. The
paper's A against B is one group and two disjoint halves; in a batch of all groups every row has both roles.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Toward = Literal["population", "group"]


def gap_weights(groups: Tensor, population: Tensor, n_groups: int) -> Tensor:
    """Compute the weights of the critic scores in the gap between the groups and the population.

    Column y holds ``1 / n_y`` on the rows of group y minus ``1 / n_population`` on the rows of the population. Both are
    divided by the number of groups that occur in the batch. A group without a row has weight 0. Without a population, every
    group has weight 0.

    Args:
        groups: group index of each row, int64, shape ``(batch,)``; -1 for a row that belongs to no group. A row with several
            labels belongs to a group of each: shape ``(batch, labels)``.
        population: whether a row stands for the whole set, bool, shape ``(batch,)``.
        n_groups: number of critic outputs, at least 1.

    Returns:
        Tensor of shape ``(batch, n_groups)``, float32. Each column sums to zero.

    Raises:
        ValueError: if the shapes differ or ``n_groups`` is below 1.

    >>> gap_weights(torch.tensor([0, 0, -1, -1]), torch.tensor([False, False, True, True]), 1).T
    tensor([[ 0.5000,  0.5000, -0.5000, -0.5000]])
    """
    if groups.ndim not in (1, 2) or population.shape != groups.shape[:1]:
        raise ValueError(
            f"`groups` and `population` must both have shape (batch,), got {tuple(groups.shape)} and {tuple(population.shape)}"
        )
    if not n_groups >= 1:
        raise ValueError(f"`n_groups` must be at least 1, got {n_groups}")
    outputs = torch.arange(n_groups, device=groups.device)
    member = (groups[:, None] == outputs).float() if groups.ndim == 1 else (groups[:, :, None] == outputs).any(1).float()
    whole = population.float()[:, None]
    member_count = member.sum(0)
    whole_count = whole.sum()
    counts = (member_count > 0) & (whole_count > 0)
    gap = member / member_count.clamp(min=1) - whole / whole_count.clamp(min=1)
    return gap * counts / counts.sum().clamp(min=1)


def feature_spread(features: Tensor, in_play: Tensor) -> Tensor:
    """Compute the root mean square deviation of features from the mean of their dimension, over rows and dimensions.

    Args:
        features: shape ``(batch, dim)``.
        in_play: mask of the rows to use, shape ``(batch,)``.

    Returns:
        A scalar tensor in feature units; 0 without a row to use.

    >>> feature_spread(torch.tensor([[1.0, 0.0], [3.0, 0.0], [9.0, 9.0]]), torch.tensor([True, True, False]))
    tensor(0.7071)
    """
    rows = in_play.float()[:, None]
    count = rows.sum().clamp(min=1.0)
    centred = (features - (features * rows).sum(0) / count) * rows
    spread: Tensor = centred.norm() / (count * features.shape[1]).sqrt()
    return spread


def group_gap(scores: Tensor, groups: Tensor, population: Tensor) -> Tensor:
    """Compute the mean over the groups of (mean score of the group minus mean score of the population).

    Output y of the critic is the witness of group y. So the gap estimates the mean over y of W1(R_y, R) from below if every
    output is 1-Lipschitz. The mean excludes groups without a row in the batch.

    Args:
        scores: critic outputs, shape ``(batch, n_groups)``.
        groups: group index of each row, int64, shape ``(batch,)``; -1 for none.
        population: whether a row stands for the whole set, bool, shape ``(batch,)``.

    Returns:
        A scalar tensor in score units; 0 if no group occurs.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Li et al. 2021, arXiv:2102.10955, Eq. 21-22 (the case of one group); the mean over all label values is ours.

    >>> scores = torch.tensor([[2.0], [4.0], [1.0], [0.0]])
    >>> group_gap(scores, torch.tensor([0, 0, -1, -1]), torch.tensor([False, False, True, True]))
    tensor(2.5000)
    """
    if scores.ndim != 2 or scores.shape[:1] != groups.shape[:1]:
        raise ValueError(
            f"`scores` must have shape (batch, n_groups) with batch = {groups.shape[0]}, got {tuple(scores.shape)}"
        )
    return (scores * gap_weights(groups, population, scores.shape[1])).sum()


def one_sided_loss(scores: Tensor, *, toward: Toward = "population") -> Tensor:
    """Compute the paper's Goal 2 on a batch of task rows: their mean critic score, with a sign for the direction.

    The critic scores a group high and the population low (it maximises :func:`group_gap`). So descent of the mean score
    shifts the task features towards the population, as in Alg. 1. The negative mean shifts them towards the group, as in
    Eq. 22 with Eq. 24. The loss has no lower bound.

    Args:
        scores: critic outputs on task features, shape ``(batch, n_groups)``.
        toward: ``"population"`` (Alg. 1) or ``"group"`` (Eq. 22 and 24).

    Returns:
        A scalar tensor in score units.

    Raises:
        ValueError: for any other ``toward``.

    Source: Li et al. 2021, arXiv:2102.10955, Eq. 25, with an explicit direction.

    >>> one_sided_loss(torch.tensor([[1.0], [3.0]])), one_sided_loss(torch.tensor([[1.0], [3.0]]), toward="group")
    (tensor(2.), tensor(-2.))
    """
    if toward not in ("population", "group"):
        raise ValueError(f'`toward` must be "population" or "group", got {toward!r}')
    return scores.mean() if toward == "population" else -scores.mean()


def pair_with_population(features: Tensor, groups: Tensor, population: Tensor, *, mix: Tensor, order: Tensor) -> Tensor:
    """Interpolate between each row and a row of the population, to get points for the gradient penalty.

    Args:
        features: shape ``(batch, dim)``.
        groups: group index of each row, shape ``(batch,)``; the function uses only its length.
        population: whether a row stands for the whole set, bool, shape ``(batch,)``.
        mix: position on the line per row, in [0, 1] (1: the row itself), shape ``(..., batch)`` for several sets of points.
        order: random numbers in [0, 1) that pick the partners, of the same shape.

    Returns:
        Tensor of shape ``(..., batch, dim)``.

    Source: Gulrajani et al. 2017, arXiv:1704.00028, Alg. 1 line 6, with the population as the second sample.
    """
    # With the population rows sorted first, row i takes partner i modulo their number, so no count needs the host.
    ranking = torch.argsort(torch.where(population, order, order + 1.0))
    position = torch.arange(len(groups), device=groups.device) % population.sum().clamp(min=1)
    partner = features[ranking[..., position]]
    mix = mix[..., None]
    return mix * features + (1.0 - mix) * partner


def gradient_penalty(critic: Callable[[Tensor], Tensor], points: Tensor, groups: Tensor, *, target: float = 1.0) -> Tensor:
    """Compute the mean squared distance of the critic's slope from ``target``, per row.

    The slope of row i is the Euclidean norm, over the feature dimension, of the gradient of output ``groups[i]`` at
    ``points[i]``. The critic must treat rows independently (no batch normalisation).

    Args:
        critic: maps ``(batch, dim)`` to ``(batch, n_groups)``.
        points: positions of the slopes, shape ``(batch, dim)``; no gradient flows to them.
        groups: index of the output per row, int64, shape ``(batch,)``; rows with -1 are ignored.
        target: target slope, above 0; 1 for a 1-Lipschitz critic.

    Returns:
        A scalar tensor, differentiable with respect to the critic's parameters; 0 if every row is ignored.

    Raises:
        ValueError: if ``points`` is not two-dimensional or the batch sizes differ.

    Source: Gulrajani et al. 2017, arXiv:1704.00028, Eq. 3.

    >>> steep = torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.constant_(steep.weight, 3.0)  # slope 3 * sqrt(2) everywhere
    >>> gradient_penalty(steep, torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)).detach()
    tensor(10.5147)
    """
    if points.ndim != 2 or groups.shape != points.shape[:1]:
        shapes = f"{tuple(points.shape)} and {tuple(groups.shape)}"
        raise ValueError(f"`points` must have shape (batch, dim) and `groups` shape (batch,), got {shapes}")
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        chosen = critic(points).gather(1, groups.clamp(min=0)[:, None])
        (gradients,) = torch.autograd.grad(chosen.sum(), points, create_graph=True)
        return penalty_of_gradients(gradients, groups, target=target)


def penalty_of_gradients(gradients: Tensor, groups: Tensor, *, target: float = 1.0) -> Tensor:
    """Compute :func:`gradient_penalty` from the gradients of output ``groups[i]`` at point i, shape ``(batch, dim)``."""
    kept = (groups >= 0).float()
    # The gradient of sqrt is infinite at 0, the slope of a dead critic; the small constant makes it finite.
    slopes = (gradients.square().sum(1) + 1e-12).sqrt()
    return ((slopes - target).square() * kept).sum() / kept.sum().clamp(min=1)


def task_norms(norms: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Combine the ranks' task gradient norms at the features to norms in units of the unscaled loss.

    DDP averages the ranks' losses, so their rows form one batch: squared norms add, and their root falls with the ranks.

    Args:
        norms, weights: norms of the scaled task gradients, and factors of the loss; shape ``(ranks, iterations)`` each.

    Returns:
        The norms and the mean weights, shape ``(iterations,)`` each; not finite for an iteration without a record.

    >>> task_norms(torch.tensor([[3.0], [4.0]]), torch.tensor([[2.0], [2.0]]))
    (tensor([1.2500]), tensor([2.]))
    """
    joint: Tensor = norms.square().sum(0).sqrt() / norms.shape[0]
    weight: Tensor = weights.mean(0)
    return joint / weight, weight


def norm_of_all_passes(norm: Tensor, passes: int) -> Tensor:
    """Correct the norm of a pull on task rows for the number of passes in an iteration.

    Passes (micro-batches, ranks) have different rows, so their pulls are about orthogonal. Averaged like the loss, n pulls are
    weaker than the pull of one batch by a factor of ``sqrt(n)``, for which the smaller norm compensates.

    >>> norm_of_all_passes(torch.tensor(6.0), 4)
    tensor(3.)
    """
    return norm / math.sqrt(passes)


def transferred_error_bound(error: float, distance: float, *, lipschitz: float) -> float:
    """Bound the error under one distribution of features by the error under another.

    The bound, ``error + 2 * lipschitz * distance``, holds if *both* the classifier and an ideal one are Lipschitz functions of
    the features (the spectral norm certifies a linear head; the ideal one is an assumption), and ``distance`` is the true W1.
    A critic estimates W1 from below, so with its estimate the bound may be too small.

    Args:
        error: mean Euclidean distance between the outputs of the two, under the first distribution, at least 0.
        distance: W1 between the two distributions of features, at least 0.
        lipschitz: constant of both classifiers with respect to the features, at least 0.

    Raises:
        ValueError: if an argument is negative or NaN.

    Source: Li et al. 2021, arXiv:2102.10955, Theorem 1 and Eq. 16.

    >>> transferred_error_bound(0.25, 0.5, lipschitz=2.0)
    2.25
    """
    for name, value in (("error", error), ("distance", distance), ("lipschitz", lipschitz)):
        if not value >= 0:
            raise ValueError(f"`{name}` must be at least 0, got {value}")
    return error + 2.0 * lipschitz * distance
