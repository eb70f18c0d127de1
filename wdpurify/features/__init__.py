"""Obtains features: the task's from a forward hook or from the caller, auxiliary ones from a forward without side effects."""

from .auxiliary import AuxiliaryForward
from .criterion import PurifiedCriterion, term_sources, wrap_criterion
from .inputs import attention_mask_of, call_with, takes_several, usable_inputs
from .isolation import Isolation
from .pooling import (
    Pool,
    blank_rows,
    check_features,
    check_pool,
    pool_features,
    unpool,
    usable_rows,
)
from .tap import FeatureTap
