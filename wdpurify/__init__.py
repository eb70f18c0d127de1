"""wdpurify: Purified Learning as a regularizer for training loops that already exist."""

from importlib.metadata import version as _version

from . import functional as functional
from . import lipschitz as lipschitz
from ._constraints import Constraint as Constraint
from ._constraints import GradientPenalty as GradientPenalty
from ._constraints import SpectralClipping as SpectralClipping
from ._constraints import WeightClipping as WeightClipping
from ._criterion import PurifiedCriterion as PurifiedCriterion
from ._critic import Critic as Critic
from ._monitor import PurifyMetrics as PurifyMetrics
from ._options import PurifyOptions as PurifyOptions
from ._regularizer import PurifyRegularizer as PurifyRegularizer
from ._sampler import GroupBatch as GroupBatch
from ._sampler import GroupSampler as GroupSampler
from ._sampler import Sampler as Sampler
from ._strength import BalancedStrength as BalancedStrength
from ._strength import FixedStrength as FixedStrength
from ._strength import Strength as Strength
from ._tap import FeatureTap as FeatureTap
from ._warnings import CriticNotSteppedWarning as CriticNotSteppedWarning
from ._warnings import DeadCriticWarning as DeadCriticWarning
from ._warnings import FeaturesWithoutGradWarning as FeaturesWithoutGradWarning
from ._warnings import ForeignOptimizerWarning as ForeignOptimizerWarning
from ._warnings import NoTaskGradientWarning as NoTaskGradientWarning
from ._warnings import OptimizerNotSeenWarning as OptimizerNotSeenWarning
from ._warnings import PurifyWarning as PurifyWarning
from ._warnings import SaturatedCriticWarning as SaturatedCriticWarning
from ._warnings import SilentTapWarning as SilentTapWarning

__version__ = _version("wdpurify")
