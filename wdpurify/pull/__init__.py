"""The pull on the extractor: its objective, its strength, and its way into the user's backward pass."""

from .controller import StrengthController, scaled_value
from .graphs import depends_on, reachable_parameters
from .inject import add_term, inject_gradients
from .objectives import Objective, OneSided, TwoSided, check_objective
from .passes import Forward, Pass
from .probe import Probe, measure_gradient
from .strength import (
    BalancedStrength,
    FixedStrength,
    Strength,
    as_strength,
)
