"""What torch makes necessary: private randomness, devices, wrappers, autocast, ranks, compiled graphs. No idea of the method."""

from .autocast import AutocastState as AutocastState
from .autocast import current_autocast as current_autocast
from .autocast import full_precision as full_precision
from .autocast import replayed as replayed
from .compiled import outside_graphs as outside_graphs
from .devices import moved as moved
from .randomness import derive_seed as derive_seed
from .randomness import private_generator as private_generator
from .randomness import private_randomness as private_randomness
from .ranks import checked_share as checked_share
from .ranks import copy_from_first_rank as copy_from_first_rank
from .ranks import gathered as gathered
from .ranks import rank_and_world as rank_and_world
from .transforms import in_backward as in_backward
from .transforms import in_functional_transform as in_functional_transform
from .wrappers import is_sharded as is_sharded
from .wrappers import owner_of as owner_of
from .wrappers import root_library as root_library
from .wrappers import unwrap as unwrap
