"""How features are had: of the task by a tap or from the user's hands, of auxiliary rows by a forward that leaves no trace."""

from .auxiliary import AuxiliaryForward as AuxiliaryForward
from .criterion import PurifiedCriterion as PurifiedCriterion
from .criterion import purified_module as purified_module
from .pooling import LARGEST_INPUT as LARGEST_INPUT
from .pooling import Pool as Pool
from .pooling import blank_rows as blank_rows
from .pooling import check_features as check_features
from .pooling import check_pool as check_pool
from .pooling import pool_features as pool_features
from .pooling import replace_rows as replace_rows
from .pooling import unpooled as unpooled
from .pooling import usable_rows as usable_rows
from .tap import CapturedPass as CapturedPass
from .tap import FeatureTap as FeatureTap
