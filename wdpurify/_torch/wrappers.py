"""Finds the user's module behind wrappers and callables, and converts sharded tensors."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .devices import to_device

#: Child names of the wrapped module in torch.compile, DataParallel and DDP, and old versions of Accelerate.
WRAPPED = ("_orig_mod", "module", "_forward_module")
#: Libraries whose classes may be wrappers. A user's class with a child `module` is no wrapper: its forward may do more.
WRAPPER_LIBRARIES = ("torch", "accelerate", "deepspeed", "lightning", "lightning_fabric")


def unwrap(module: nn.Module) -> nn.Module:
    """Return the user's module behind DDP, torch.compile and the like; a second forward through DDP breaks its buckets."""
    if type(module).__module__.partition(".")[0] in WRAPPER_LIBRARIES:
        children = dict(module.named_children())
        for name in WRAPPED:
            if children.keys() == {name}:
                return unwrap(children[name])
    return module


def owner_of(extract: Callable[..., Any]) -> nn.Module | None:
    """Return the module of a callable: a module itself, a bound method's, a partial's; None for a plain function."""
    if isinstance(extract, nn.Module):
        return extract
    if isinstance(extract, functools.partial):
        return owner_of(extract.func)
    bound = getattr(extract, "__self__", None)
    return bound if isinstance(bound, nn.Module) else None


def root_library(function: Any) -> str:
    """Return the top-level package that defines a function, a bound method, a partial or a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    module = getattr(function, "__module__", None) or type(function).__module__
    return str(module).partition(".")[0]


def is_shard(tensor: Tensor) -> bool:
    """Whether a tensor is sharded, with a part on each rank; autograd graphs lead to the unsharded tensor, not to it."""
    return hasattr(tensor, "to_local")


def local_part(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor, or an unsharded tensor itself."""
    sharded: Any = tensor
    part: Tensor = sharded.to_local() if is_shard(tensor) else tensor
    return part


def shard_like(whole: Tensor, part: Tensor) -> Tensor:
    """Convert a result of :func:`local_part` back to the device and sharding of ``whole``."""
    placed = to_device(part, whole.device)
    if not is_shard(whole):
        return placed
    sharded: Any = whole
    form = {"run_check": False, "shape": sharded.shape, "stride": sharded.stride()}  # shards may differ in size
    return type(sharded).from_local(placed, sharded.device_mesh, sharded.placements, **form)  # type: ignore[no-any-return]


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP (``fully_shard``) exchanges the module's parameters around each forward."""
    kinds = {type(part) for part in module.modules()}
    return any(parent.__name__ == "FSDPModule" for kind in kinds for parent in kind.__mro__)


def shards_of(model: nn.Module) -> list[Tensor]:
    """Return the trainable parameters of a sharded model, as the optimiser holds them.

    After a forward pass a module may still hold whole parameters. Sharding them again is FSDP's default, and the backward pass
    gathers them when needed.
    """
    for part in model.modules():
        if hasattr(part, "reshard"):
            part.reshard()  # type: ignore[operator]
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
