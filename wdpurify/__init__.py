"""wdpurify: Purified Learning as a regularizer for training loops that already exist."""

from importlib.metadata import version as _version

from . import functional as functional
from . import lipschitz as lipschitz
from ._monitor import PurifyMetrics as PurifyMetrics
from ._regularizer import PurifyRegularizer as PurifyRegularizer
from ._sampler import GroupBatch as GroupBatch
from ._sampler import GroupSampler as GroupSampler
from .critic import Critic as Critic
from .critic import GradientPenalty as GradientPenalty
from .critic import SpectralClipping as SpectralClipping
from .critic import WeightClipping as WeightClipping
from .exceptions import PurifyWarning as PurifyWarning
from .pull import BalancedStrength as BalancedStrength
from .pull import FixedStrength as FixedStrength
from .pull import OneSided as OneSided
from .pull import TwoSided as TwoSided

__version__ = _version("wdpurify")
