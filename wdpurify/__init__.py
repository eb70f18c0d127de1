"""wdpurify: Purified Learning as a regularizer for training loops that already exist."""

from importlib.metadata import version as _version

from . import functional, lipschitz
from ._balance import balanced_weights
from ._metrics import PurifyMetrics
from ._regularizer import PurifyRegularizer
from ._sampler import GroupBatch, GroupSampler
from .critic import Critic, GradientPenalty, SpectralClipping, WeightClipping
from .erasure import Eraser
from .exceptions import PurifyWarning
from .pull import BalancedStrength, FixedStrength, OneSided, TwoSided

__all__ = [
    "BalancedStrength",
    "Critic",
    "Eraser",
    "FixedStrength",
    "GradientPenalty",
    "GroupBatch",
    "GroupSampler",
    "OneSided",
    "PurifyMetrics",
    "PurifyRegularizer",
    "PurifyWarning",
    "SpectralClipping",
    "TwoSided",
    "WeightClipping",
    "balanced_weights",
    "functional",
    "lipschitz",
]
__version__ = _version("wdpurify")
