"""Whether torch.func transforms (``grad``, ``vmap``, ``jvp``) or a backward pass are under way."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .compiled import in_compiled_backward


def in_functional_transform() -> bool:
    """Inside ``torch.func`` tensors are wrappers that die with the transform: they must be neither kept nor hooked."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor stands for several in one vectorised call: ``vmap``, or ``is_grads_batched=True``."""
    functorch = torch._C._functorch
    if in_compiled_backward():
        return False
    return functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor)


def in_backward() -> bool:
    """Whether a backward pass is under way: gradient checkpointing runs the forward once more there."""
    return torch._C._current_graph_task_id() != -1


def graph_is_kept() -> bool:
    """Whether the backward pass under way keeps its graph, so that another one may go through it."""
    if in_compiled_backward() or not in_backward():
        return False
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)  # torch 2.6
    return ask is not None and bool(ask())


def is_accumulated(nodes: Iterable[Any]) -> bool:
    """Whether the backward pass under way leaves gradients in ``.grad``: ``backward()`` does, ``autograd.grad`` does not.

    Args:
        nodes: those that follow a node in the graph of this backward pass. Those of leaves tell; without any, it is assumed.
    """
    leaves = [node for node in nodes if type(node).__name__ == "AccumulateGrad"]
    return not leaves or any(map(_will_accumulate, leaves))


def _will_accumulate(leaf: Any) -> bool:
    try:
        return bool(torch._C._will_engine_execute_node(leaf))
    except RuntimeError as error:  # torch refuses the question where autograd.grad was asked for the gradient of this leaf
        return "autograd.grad" not in str(error)
