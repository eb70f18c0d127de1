"""Eraser: the affine map that hides a label from every linear probe on the fitted rows, with the least change of features."""

import torch
from torch import Tensor, nn

from .covariance import moments


class Eraser(nn.Module):
    """Removes a label's linearly readable part from features: ``x - removed @ read.T @ (x - mean)``.

    Call it on the classifier's input, or put it before the classifier, ``nn.Sequential(eraser, head)``. It accepts features
    of any floating dtype and computes in float32 or wider.

    Args:
        removed: directions to remove, shape ``(dim, rank)``.
        read: coordinates along these directions, shape ``(dim, rank)``, with ``read.T @ removed`` the identity.
        mean: mean of the features, shape ``(dim,)``; the map does not change it.
    """

    removed: Tensor
    read: Tensor
    mean: Tensor

    def __init__(self, removed: Tensor, read: Tensor, mean: Tensor) -> None:
        super().__init__()
        for name, value in (("removed", removed), ("read", read), ("mean", mean)):
            self.register_buffer(name, value.float())

    @property
    def rank(self) -> int:
        """Number of removed directions, at most the number of label values minus one."""
        return self.removed.shape[1]

    def forward(self, features: Tensor) -> Tensor:
        """Remove the label from features.

        Args:
            features: shape ``(batch, dim)``, ``(batch, tokens, dim)`` or ``(batch, dim, height, width)``.

        Returns:
            The erased features, of the same shape and dtype.

        Raises:
            ValueError: if neither the last axis nor the second of four has ``dim`` entries.
        """
        dim = len(self.mean)
        channels_first = features.ndim == 4 and features.shape[1] == dim
        rows = features.movedim(1, -1) if channels_first else features
        if rows.shape[-1] != dim:
            raise ValueError(f"`features` must have {dim} entries in the last axis, got shape {tuple(features.shape)}")
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        removed, read, mean = (each.to(wide) for each in (self.removed, self.read, self.mean))
        erased = (wide - ((wide - mean) @ read) @ removed.T).to(features.dtype)
        return erased.movedim(-1, 1) if channels_first else erased

    def extra_repr(self) -> str:
        return f"{len(self.mean)} features, {self.rank} directions removed"


def fit_eraser(
    features: Tensor,
    groups: Tensor,
    weights: Tensor | None = None,
    *,
    through_origin: bool = False,
    shrinkage: float | None = None,
) -> Eraser:
    """Fit an eraser in closed form on rows with labels.

    ``S`` is the covariance of the features, and ``C`` their covariance with the label's values. The map projects along the
    columns of ``C``, orthogonally in the metric of the inverse of ``S``. It changes the features least among all affine maps
    that make features and label uncorrelated.

    Args:
        features: shape ``(rows, dim)``, finite.
        groups: number of each row's label value, int64, shape ``(rows,)``; at least two must occur. Several labels are hidden
            together, ``(rows, labels)``, with numbers of their own and -1 for a missing one.
        weights: weights of the rows, shape ``(rows,)``, positive; None weighs all rows equally.
        through_origin: make the map linear, for a classifier without a bias; the mean still does not change.
        shrinkage: see :func:`moments`.

    Raises:
        ValueError: if only one label value occurs, or the label takes all dimensions.

    Source: Belrose et al. 2023, "LEACE", arXiv:2306.03819, Theorem 4.3, with a shrunk covariance.
    """
    rows = features.detach().double().cpu()
    columns = list(groups.cpu().unbind(1)) if groups.ndim == 2 else [groups.cpu()]
    if not all(len(column.unique()) > 1 for column in columns):
        raise ValueError(
            "`groups` must hold at least two label values to erase, got one. Add rows with another label value, or raise "
            "`max_rows`"
        )
    statistics = moments(
        rows, torch.ones(len(rows), dtype=torch.float64) if weights is None else weights.double().cpu(), shrinkage=shrinkage
    )
    has_label = [column >= 0 if groups.ndim == 2 else torch.ones_like(column, dtype=torch.bool) for column in columns]
    pairs = zip(columns, has_label, strict=True)
    labels = torch.cat([_centred_values(column, has, statistics.weights) for column, has in pairs], dim=1)
    shared = (statistics.centred * statistics.weights[:, None]).T @ labels
    directions, sizes, _ = torch.linalg.svd(shared, full_matrices=False)
    removed = directions[:, sizes > 1e-9 * torch.maximum(sizes.max(), rows.abs().mean())]  # smaller sizes are rounding errors
    if removed.shape[1] >= rows.shape[1]:
        raise ValueError(f"the label takes all {rows.shape[1]} dimensions of the features. Use wider features or fewer groups")
    solved = torch.linalg.solve(statistics.covariance, torch.cat([removed, statistics.mean[:, None]], dim=1))
    read, of_mean = solved[:, :-1], solved[:, -1]
    if through_origin and (size := statistics.mean @ of_mean) > 0:
        read = read - of_mean[:, None] * (statistics.mean @ read) / size
    read = read @ torch.linalg.pinv(removed.T @ read)
    return Eraser(removed, read, statistics.mean)


def _centred_values(column: Tensor, has_label: Tensor, weights: Tensor) -> Tensor:
    """The values of one label, each less its mean, shape ``(rows, values)``; 0 in rows without the label."""
    values = (column[:, None] == column[has_label].unique()).double()
    centred: Tensor = (values - weights @ values / (weights @ has_label.double())) * has_label[:, None]
    return centred
