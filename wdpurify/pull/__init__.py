"""The pull on the extractor: what it minimises, how strong it is, and how it reaches the user's backward pass."""

from .graphs import depends_on, reachable_parameters
from .hand_over import PassRecord, Probe, measured, with_pull
from .objectives import Objective, OneSided, TwoSided, check_objective
from .pull import Pull
from .strength import (
    BalancedStrength,
    FixedStrength,
    Strength,
    as_strength,
)
