"""The Wasserstein critic: its network, the constraints on its Lipschitz constant, and its training."""

from .constraints import (
    Constraint,
    GradientPenalty,
    SpectralClipping,
    WeightClipping,
)
from .network import Critic, build_critic
from .trainer import CriticTrainer
