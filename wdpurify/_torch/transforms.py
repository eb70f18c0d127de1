"""Detects torch.func transforms (``grad``, ``vmap``, ``jvp``) and the state of the current backward pass."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .compiled import in_compiled_backward


def in_functional_transform() -> bool:
    """Whether a ``torch.func`` transform runs: its tensors die with it, so callers must neither store nor hook them."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor is batched by ``vmap`` or ``is_grads_batched=True``."""
    functorch = torch._C._functorch
    if in_compiled_backward():
        return False
    return functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor)


def in_backward() -> bool:
    """Whether a backward pass runs, in which gradient checkpointing repeats forward passes."""
    return torch._C._current_graph_task_id() != -1


def graph_is_kept() -> bool:
    """Whether the current backward pass retains its graph, so another pass may follow through the same graph."""
    if in_compiled_backward() or not in_backward():
        return False
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def is_accumulated(nodes: Iterable[Any]) -> bool:
    """Whether the current backward pass writes ``.grad``: ``backward()`` does, ``autograd.grad`` does not.

    Args:
        nodes: next autograd nodes of a node in this backward pass. Leaf nodes decide; without a leaf node the result is True.
    """
    leaves = [node for node in nodes if type(node).__name__ == "AccumulateGrad"]
    return not leaves or any(map(_will_accumulate, leaves))


def _will_accumulate(leaf: Any) -> bool:
    try:
        return bool(torch._C._will_engine_execute_node(leaf))
    except RuntimeError as error:  # torch raises if this leaf is an input of autograd.grad
        return "autograd.grad" not in str(error)
