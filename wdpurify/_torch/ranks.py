"""Communication between the ranks of a distributed run, for critic and sampler."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wdpurify._checks import check_positive_integer

from .wrappers import is_shard, is_sharded


def rank_and_world() -> tuple[int, int]:
    """Return rank and number of ranks of the default process group; 0 of 1 without a group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def check_share(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    """Check the user's share of the data; None means that the first draw reads it from the process group.

    Raises:
        ValueError: if the user gives only one of the two, or ``rank`` is outside ``[0, world_size)``.
    """
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise ValueError(f"`rank` and `world_size` must both be given or both be None, got {rank} and {world_size}")
    check_positive_integer("world_size", world_size)
    if not 0 <= rank < world_size:
        raise ValueError(f"`rank` must be in [0, {world_size}), got {rank}")
    return rank, world_size


def agree_on_share(share: tuple[int, int] | None) -> tuple[int, int]:
    """Return this rank's share of the data: the user's, or rank and number of ranks of the default process group.

    Raises:
        ValueError: if the user's share is neither the process group's nor the whole set.
    """
    place = rank_and_world()
    if share is not None and place[1] > 1 and share not in (place, (0, 1)):
        raise ValueError(
            f"`rank` and `world_size` must be {place[0]} and {place[1]} in this process, got {share[0]} and {share[1]}. Leave "
            "both out, or give `rank=0, world_size=1` if the ranks train separate models"
        )
    return place if share is None else share


def refuse_some_of_the_ranks(model: nn.Module) -> None:
    """Check that all ranks train the model, and that no layer is split over ranks by tensor parallelism.

    Raises:
        ValueError: if not; the message states the alternative.
    """
    world = rank_and_world()[1]
    group = getattr(model, "process_group", None)
    if world > 1 and group is not None and dist.get_world_size(group) != world:
        raise ValueError(
            f"`model` must train on all {world} ranks like the critic, got a process group of {dist.get_world_size(group)}. "
            "Start a separate job for each model"
        )
    if not is_sharded(model) and any(is_shard(parameter) for parameter in model.parameters()):
        raise ValueError(
            "`model` has layers split over ranks (tensor parallelism), whose gradients wdpurify cannot read. "
            "Shard it by `fully_shard`, or train it with DistributedDataParallel"
        )


@contextmanager
def _waiting_for_others() -> Iterator[None]:
    """Replace a communication error by one with the library's name and the remedy, which the backend's message lacks."""
    try:
        yield
    except RuntimeError as error:
        rank, world = rank_and_world()
        raise RuntimeError(
            f"wdpurify: rank {rank} of {world} did not receive the other ranks' auxiliary rows: another rank failed, ended "
            "early, or made fewer calls of `critic_step()`. See that rank's error, and call `critic_step()` equally often on "
            "every rank. If the ranks train separate models, give their samplers `rank=0, world_size=1`"
        ) from error


def gather_ranks(tensor: Tensor) -> Tensor:
    """Gather a tensor from all ranks, shape ``(ranks, *tensor.shape)``; every rank must call this with the same shape."""
    _, world = rank_and_world()
    parts = [torch.empty_like(tensor) for _ in range(world)]
    with _waiting_for_others():
        dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


def gather_objects(value: Any, *, device: torch.device) -> list[Any]:
    """Gather a value of tensors or primitives from each rank, in the order of the ranks; every rank must call this.

    Args:
        value: value of this rank.
        device: device of the model, which carries the communication.
    """
    _, world = rank_and_world()
    values: list[Any] = [value] * world
    if world > 1:
        here = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with _waiting_for_others(), here:
            dist.all_gather_object(values, value)
    return values


def refuse_unlike(mine: Mapping[str, object], *, device: torch.device) -> None:
    """Raise an error on every rank if the ranks differ in a setting that they must share; every rank must call this.

    Args:
        mine: settings of this rank, a mapping from name to value.
        device: see :func:`gather_objects`.

    Raises:
        ValueError: with the first setting that differs.
    """
    ranks = gather_objects(dict(mine), device=device)
    for name in dict.fromkeys(name for rank in ranks for name in rank):
        values = [rank.get(name) for rank in ranks]
        other = next((number for number, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise ValueError(
                f"the ranks must draw from one auxiliary set and train one critic, but `{name}` is {values[0]} on rank 0 and "
                f"{values[other]} on rank {other}. Give every rank the same rows in the same order, labels and settings"
            )


def copy_from_first_rank(module: nn.Module, seed: int) -> int:
    """Copy the first rank's weights to every rank; returns the first rank's ``seed``."""
    tensors = [*module.parameters(), *module.buffers()]
    agreed = torch.tensor(seed, device=tensors[0].device)
    with torch.no_grad(), _waiting_for_others():
        for tensor in [*tensors, agreed]:
            dist.broadcast(tensor.data, 0)
    return int(agreed)
