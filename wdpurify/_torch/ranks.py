"""The ranks of a distributed run, as the critic and the sampler see them."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wdpurify._checks import check_positive_integer


def rank_and_world() -> tuple[int, int]:
    """Rank and number of ranks of the default process group; 0 of 1 without one."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def checked_share(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    """A share of the data as given by a user; None if it is to be found at the first draw.

    Raises:
        ValueError: if only one of the two is given, or they do not fit.
    """
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise ValueError(f"`rank` and `world_size` must be given together, got {rank} and {world_size}")
    check_positive_integer("world_size", world_size)
    if not 0 <= rank < world_size:
        raise ValueError(f"`rank` must be in [0, {world_size}), got {rank}")
    return rank, world_size


def gathered(tensor: Tensor) -> Tensor:
    """What all ranks hold, shape ``(ranks, *tensor.shape)``; every rank must call this with the same shape."""
    _, world = rank_and_world()
    parts = [torch.empty_like(tensor) for _ in range(world)]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


def of_every_rank(value: Any) -> list[Any]:
    """What each rank gives, tensors or primitives, in the order of the ranks; every rank must call this."""
    _, world = rank_and_world()
    values: list[Any] = [value] * world
    if world > 1:
        dist.all_gather_object(values, value)
    return values


def copy_from_first_rank(module: nn.Module, seed: int) -> int:
    """Give every rank the first rank's weights; returns that rank's ``seed``."""
    tensors = [*module.parameters(), *module.buffers()]
    agreed = torch.tensor(seed, device=tensors[0].device)
    with torch.no_grad():
        for tensor in [*tensors, agreed]:
            dist.broadcast(tensor.data, 0)
    return int(agreed)
