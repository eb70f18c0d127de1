"""The ranks of a distributed run, as the critic and the sampler see them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wdpurify._checks import check_positive_integer

from .wrappers import is_shard, is_sharded


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


def agreed_share(share: tuple[int, int] | None) -> tuple[int, int]:
    """The share of the data that this rank draws: as given, or rank and number of ranks of the default process group.

    Raises:
        ValueError: if a share was given that is neither that of the process group nor the whole.
    """
    place = rank_and_world()
    if share is not None and place[1] > 1 and share not in (place, (0, 1)):
        raise ValueError(
            f"`rank={share[0]}, world_size={share[1]}` is not the place of this process: it is rank {place[0]} of {place[1]}. "
            "Leave both out, or give `rank=0, world_size=1` to ranks that train models of their own"
        )
    return place if share is None else share


def refuse_some_of_the_ranks(model: nn.Module) -> None:
    """Refuse a model that only some of the ranks train, or whose layers they share.

    Raises:
        ValueError: with what to do instead.
    """
    world = rank_and_world()[1]
    group = getattr(model, "process_group", None)
    if world > 1 and group is not None and dist.get_world_size(group) != world:
        raise ValueError(
            f"`model` is trained by {dist.get_world_size(group)} of {world} ranks, and the critic is trained by all of them. "
            "Start a job of its own for each model"
        )
    if not is_sharded(model) and any(is_shard(parameter) for parameter in model.parameters()):
        raise ValueError(
            "`model` has layers that several ranks share (tensor parallelism), whose gradients wdpurify cannot take. "
            "Shard it by `fully_shard`, or train it with DistributedDataParallel"
        )


@contextmanager
def _waiting_for_others() -> Iterator[None]:
    """Say whose waiting it was that failed: what the backend says names neither this library nor a remedy."""
    try:
        yield
    except RuntimeError as error:
        rank, world = rank_and_world()
        raise RuntimeError(
            f"wdpurify: rank {rank} of {world} waited for the other ranks' auxiliary rows in vain. One of them failed (its own "
            "error says why), ended before this one, or did not come to `critic_step()`, which every rank must call equally "
            "often; ranks that train models of their own need samplers with `rank=0, world_size=1`"
        ) from error


def gather_ranks(tensor: Tensor) -> Tensor:
    """What all ranks hold, shape ``(ranks, *tensor.shape)``; every rank must call this with the same shape."""
    _, world = rank_and_world()
    parts = [torch.empty_like(tensor) for _ in range(world)]
    with _waiting_for_others():
        dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


def of_every_rank(value: Any, *, device: torch.device) -> list[Any]:
    """What each rank gives, tensors or primitives, in the order of the ranks; every rank must call this.

    Args:
        value: of this rank.
        device: of the model, through which the ranks talk.
    """
    _, world = rank_and_world()
    values: list[Any] = [value] * world
    if world > 1:
        here = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with _waiting_for_others(), here:
            dist.all_gather_object(values, value)
    return values


def refuse_unlike(mine: Mapping[str, object], *, device: torch.device) -> None:
    """Refuse, on every rank alike, ranks that differ in what they must share; every rank must call this.

    Args:
        mine: what this rank has, by name.
        device: see :func:`of_every_rank`.

    Raises:
        ValueError: with the first that differs.
    """
    ranks = of_every_rank(dict(mine), device=device)
    for name in dict.fromkeys(name for rank in ranks for name in rank):
        values = [rank.get(name) for rank in ranks]
        other = next((number for number, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise ValueError(
                f"the ranks must draw from one auxiliary set and train one critic, but `{name}` is {values[0]} on rank 0 and "
                f"{values[other]} on rank {other}: give every rank the same rows in the same order, labels and settings"
            )


def copy_from_first_rank(module: nn.Module, seed: int) -> int:
    """Give every rank the first rank's weights; returns that rank's ``seed``."""
    tensors = [*module.parameters(), *module.buffers()]
    agreed = torch.tensor(seed, device=tensors[0].device)
    with torch.no_grad(), _waiting_for_others():
        for tensor in [*tensors, agreed]:
            dist.broadcast(tensor.data, 0)
    return int(agreed)
