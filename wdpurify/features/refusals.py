"""Refuses models that an auxiliary forward cannot run: with gradients per sample, or with layers without weights."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from wdpurify._torch import root_library

#: Libraries whose hooks take a gradient per sample.
PER_SAMPLE = ("opacus",)
#: Names of a module's dicts of hooks.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def refuse_gradients_per_sample(model: nn.Module) -> None:
    """Refuse a model with hooks for per-sample gradients, because the purify term belongs to no sample.

    Raises:
        ValueError: with the alternative.
    """
    hooks = (hook for part in model.modules() for name in HOOKS for hook in getattr(part, name, {}).values())
    if any(root_library(hook) in PER_SAMPLE for hook in hooks):
        raise ValueError(
            "`model` has hooks that take a gradient per sample (Opacus): the purify term belongs to no sample, so it would be "
            "lost or break them; train without those hooks, or purify in a run of its own before the private one"
        )


def refuse_lazy(named: Sequence[tuple[str, Tensor]]) -> None:
    """Refuse named parameters without weights, because auxiliary rows would initialise them.

    Raises:
        ValueError: with the names.
    """
    lazy = [name for name, parameter in named if is_lazy(parameter)]
    if lazy:
        raise ValueError(
            f"`model` has lazy layers without weights ({', '.join(lazy[:3])}), which auxiliary rows would initialise. Call the "
            "model once with a batch of the task, before the optimiser and the regularizer are made; remove unused ones"
        )
