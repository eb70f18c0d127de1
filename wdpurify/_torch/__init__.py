"""Helpers for torch, independent of the method: randomness, devices, wrappers, autocast, ranks, graphs."""

from .autocast import (
    AutocastState,
    current_autocast,
    full_precision,
    replay_autocast,
)
from .compiled import in_compiled_backward, outside_graphs
from .devices import is_free_to_read, to_device
from .generators import generators_in
from .randomness import (
    checksum,
    derive_seed,
    private_generator,
    private_randomness,
)
from .ranks import (
    agree_on_share,
    check_share,
    copy_from_first_rank,
    gather_objects,
    gather_ranks,
    rank_and_world,
    refuse_some_of_the_ranks,
    refuse_unlike,
)
from .structures import leaves_of, map_leaves, plain
from .transforms import graph_is_kept, in_backward, in_functional_transform, is_accumulated, is_batched
from .wrappers import is_shard, is_sharded, local_part, owner_of, root_library, shard_like, shards_of, unwrap
