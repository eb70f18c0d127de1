"""Reads the scores of a classifier in what a model returns."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def scores_in(output: Any) -> Any:
    """Return the entry or attribute ``logits``, the first member of a tuple, or the output itself."""
    output = output.get("logits", output) if isinstance(output, Mapping) else getattr(output, "logits", output)
    return output[0] if isinstance(output, tuple | list) and output else output


def says_the_same(output: Tensor, scores: Tensor) -> bool:
    """Whether an output equals scores ``(rows, outputs)``, their log-probabilities, or their probabilities."""
    many = scores.shape[-1] > 1
    forms = [scores, scores.log_softmax(-1), scores.softmax(-1)] if many else [scores, scores.sigmoid()]
    return any(are_close(output, form) for form in forms)


def are_close(output: Tensor, form: Tensor) -> bool:
    """Whether an output equals another up to the rounding of half precision."""
    return output.shape == form.shape and bool((output - form).norm() <= 0.02 * form.norm() + 1e-6)
