"""Walks autograd graphs."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor


def nodes_behind(tensors: Sequence[Tensor]) -> Iterator[Any]:
    """Yield each autograd node behind some tensors once, nearest first along each branch."""
    seen: set[Any] = set()
    open_nodes = [tensor.grad_fn for tensor in tensors]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            open_nodes += [following for following, _ in node.next_functions]


def depends_on(loss: Tensor, features: Tensor) -> bool:
    """Whether a gradient of ``loss`` reaches ``features``; the search is short for a loss directly behind them."""
    if features.grad_fn is None:  # a leaf, or no graph at all, for which another check warns
        return True
    return any(node is features.grad_fn for node in nodes_behind([loss]))


def reachable_parameters(features: Sequence[Tensor]) -> set[int]:
    """Return the ids of the leaf tensors behind ``features`` in the autograd graph.

    With ``find_unused_parameters`` DDP marks the other parameters as ready and fails if they get a gradient.
    """
    variables = (getattr(node, "variable", None) for node in nodes_behind(features))
    return {id(variable) for variable in variables if variable is not None}
