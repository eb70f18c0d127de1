"""How features are had: of the task by a tap or from the user's hands, of auxiliary rows by a forward that leaves no trace."""

from .auxiliary import AuxiliaryForward
from .captured_pass import CapturedPass
from .criterion import PurifiedCriterion, purified, sources_of
from .pooling import (
    LARGEST_INPUT,
    Pool,
    blank_rows,
    check_features,
    check_pool,
    pool_features,
    replace_rows,
    unpooled,
    usable_rows,
)
from .tap import FeatureTap
