"""Whether torch.func transforms (``grad``, ``vmap``, ``jvp``) or a backward pass are under way."""

import torch


def in_functional_transform() -> bool:
    """Inside ``torch.func`` tensors are wrappers that die with the transform: they must be neither kept nor hooked."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def in_backward() -> bool:
    """Whether a backward pass is under way: gradient checkpointing runs the forward once more there."""
    return torch._C._current_graph_task_id() != -1
