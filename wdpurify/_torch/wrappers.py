"""The user's own module behind what wraps it or is bound to it."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .devices import moved

#: Children under which wrappers keep the module that they wrap: torch.compile, DataParallel and DDP, old Accelerate.
WRAPPED = ("_orig_mod", "module", "_forward_module")
#: Libraries whose classes may be such wrappers; a user's own class with a child called `module` does work of its own.
WRAPPER_LIBRARIES = ("torch", "accelerate", "deepspeed", "lightning", "lightning_fabric")


def unwrap(module: nn.Module) -> nn.Module:
    """The user's own module behind DDP, torch.compile and the like; a second forward through DDP would upset its buckets."""
    if type(module).__module__.partition(".")[0] in WRAPPER_LIBRARIES:
        children = dict(module.named_children())
        for name in WRAPPED:
            if children.keys() == {name}:
                return unwrap(children[name])
    return module


def owner_of(extract: Callable[..., Any]) -> nn.Module | None:
    """The module behind a callable: itself, what a method is bound to, what a partial wraps; None for a plain function."""
    if isinstance(extract, nn.Module):
        return extract
    if isinstance(extract, functools.partial):
        return owner_of(extract.func)
    bound = getattr(extract, "__self__", None)
    return bound if isinstance(bound, nn.Module) else None


def root_library(function: Any) -> str:
    """Name of the top-level package in which a function, a bound method, a partial or a callable object is defined."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    module = getattr(function, "__module__", None) or type(function).__module__
    return str(module).partition(".")[0]


def is_shard(tensor: Tensor) -> bool:
    """Whether a tensor is a sharded one, of which this rank holds a part; a graph leads to the whole one, not to it."""
    return hasattr(tensor, "to_local")


def own_part(tensor: Tensor) -> Tensor:
    """A tensor, or what this rank holds of a sharded one."""
    sharded: Any = tensor
    part: Tensor = sharded.to_local() if is_shard(tensor) else tensor
    return part


def like(whole: Tensor, part: Tensor) -> Tensor:
    """``part``, as :func:`own_part` gave it, placed and sharded as ``whole`` is."""
    placed = moved(part, whole.device)
    if not is_shard(whole):
        return placed
    sharded: Any = whole
    form = {"run_check": False, "shape": sharded.shape, "stride": sharded.stride()}  # shards need not be of one size
    return type(sharded).from_local(placed, sharded.device_mesh, sharded.placements, **form)  # type: ignore[no-any-return]


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP (``fully_shard``) exchanges the module's parameters around each forward."""
    return any(kind.__name__ == "FSDPModule" for part in module.modules() for kind in type(part).__mro__)
