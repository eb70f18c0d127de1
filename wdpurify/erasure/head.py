"""A linear classifier fitted anew on finished features, from where it is."""

import torch
import torch.nn.functional as F
from torch import Tensor

#: Factor of the pull towards the old weights, in rows: beside so many rows it weighs as much as they do. Chosen among 0, 0.1 to
#: 1,000 on tuning seeds of tables, text and digits, where 10 to 1,000 were within a point of each other.
PRIOR_ROWS = 100.0
ITERATIONS = 200


def refit(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, *, prior: float = PRIOR_ROWS
) -> tuple[Tensor, Tensor | None]:
    """The weights that minimise the mean cross-entropy and a small pull towards the old weights.

    Args:
        features: float64, shape ``(rows, dim)``.
        labels: class numbers, int64, shape ``(rows,)``; 0 and 1 for a classifier with one output.
        weight: where to start from, float64, shape ``(outputs, dim)``.
        bias: shape ``(outputs,)``; None for a classifier without, which gets none.
        prior: factor of the pull, at least 0; it is divided by the number of rows, and free of the features' scale.

    Returns:
        Weight and bias, of the same shapes.
    """
    centre = features.mean(0)
    scale = (features - centre).square().mean().sqrt().clamp(min=1e-12)
    centred = (features - centre if bias is not None else features) / scale
    start = weight * scale
    change = torch.zeros_like(start, requires_grad=True)
    offset = torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias + weight @ centre
    offset = offset.clone().requires_grad_(bias is not None)
    pull = prior / len(features)
    optimizer = torch.optim.LBFGS(
        [change, offset] if bias is not None else [change], max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _cross_entropy(centred @ (start + change).T + offset, labels) + 0.5 * pull * change.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    fitted = (start + change.detach()) / scale
    return fitted, None if bias is None else offset.detach() - fitted @ centre


def check_labels(labels: Tensor, outputs: int) -> Tensor:
    """Labels as class numbers.

    Raises:
        ValueError: for labels that are no class numbers of a classifier with so many outputs.
    """
    flat = labels.detach().cpu()
    if flat.ndim == 2 and flat.shape[1] == 1:
        flat = flat[:, 0]
    numbers = flat.long()
    classes = max(2, outputs)
    whole = flat.ndim == 1 and (not flat.is_floating_point() or bool((flat == numbers).all()))
    if whole and numbers.min() >= 0 and (found := len(numbers.unique())) < classes and numbers.max() < classes:
        raise ValueError(
            f"the classifier has {classes} outputs and `batches` has rows of {found} classes. Give the model's last layer and "
            "rows of every class (raise `max_rows`), or call `erase()` without batches to keep the classifier's weights"
        )
    if not whole or numbers.min() < 0 or numbers.max() >= classes:
        raise ValueError(
            f"`batches` must give class numbers from 0 to {classes - 1}, one per row, to fit a classifier with {outputs} "
            f"outputs anew, got {flat.dtype} of shape {tuple(flat.shape)}. Call `erase()` without batches to keep the weights"
        )
    return numbers


def is_no_better_than_chance(scores: Tensor, labels: Tensor) -> bool:
    """Whether scores ``(rows, outputs)`` are right no more often than the most frequent class is."""
    predicted = (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)
    return bool((predicted == labels).sum() <= labels.bincount().max())


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    if scores.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(scores[:, 0], labels.to(scores))
    return F.cross_entropy(scores, labels)
