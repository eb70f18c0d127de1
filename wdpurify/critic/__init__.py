"""The Wasserstein critic: its network, what holds its Lipschitz constant, and its training."""

from .constraints import Constraint as Constraint
from .constraints import GradientPenalty as GradientPenalty
from .constraints import SpectralClipping as SpectralClipping
from .constraints import WeightClipping as WeightClipping
from .network import Critic as Critic
from .network import made_critic as made_critic
from .trainer import CriticTrainer as CriticTrainer
