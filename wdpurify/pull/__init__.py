"""The pull on the extractor: what it minimises, how strong it is, and how it reaches the user's backward pass."""

from .graphs import depends_on as depends_on
from .graphs import reachable_parameters as reachable_parameters
from .hand_over import PassRecord as PassRecord
from .hand_over import measured as measured
from .objectives import Objective as Objective
from .objectives import OneSided as OneSided
from .objectives import TwoSided as TwoSided
from .objectives import check_objective as check_objective
from .pull import Pull as Pull
from .strength import BalancedStrength as BalancedStrength
from .strength import FixedStrength as FixedStrength
from .strength import Strength as Strength
from .strength import as_strength as as_strength
