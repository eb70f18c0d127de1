"""What a tensor's autograd graph leads to."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor


def nodes_behind(tensors: Sequence[Tensor]) -> Iterator[Any]:
    """The nodes of the graph behind some tensors, each once, nearest first along each branch."""
    seen: set[Any] = set()
    open_nodes = [tensor.grad_fn for tensor in tensors]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            open_nodes += [following for following, _ in node.next_functions]


def depends_on(loss: Tensor, features: Tensor) -> bool:
    """Whether a gradient of ``loss`` would come to ``features``; a loss that comes straight from them is told at once."""
    if features.grad_fn is None:  # a leaf, or no graph at all: what is missing is named elsewhere
        return True
    return any(node is features.grad_fn for node in nodes_behind([loss]))


def reachable_parameters(features: Sequence[Tensor]) -> set[int]:
    """Identities of the leaves that the graph behind ``features`` leads to.

    DistributedDataParallel that searches for unused parameters takes the others for ready, and breaks if they get a gradient.
    """
    variables = (getattr(node, "variable", None) for node in nodes_behind(features))
    return {id(variable) for variable in variables if variable is not None}
