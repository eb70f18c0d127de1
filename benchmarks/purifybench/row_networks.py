"""Networks that read rows other than pictures: an MLP, and a sentence encoder's last layer."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from .network import Network
from .sentence_encoder import LastLayer


def perceptron(inputs: int, classes: int, hidden: Sequence[int]) -> Network:
    """Hidden layers with ReLU, of which the last gives the features, and a linear head.

    Args:
        inputs: numbers per row.
        classes: of the head.
        hidden: widths.
    """
    layers = [layer for narrow in pairwise([inputs, *hidden]) for layer in (nn.Linear(*narrow), nn.ReLU())]
    return Network(nn.Sequential(*layers), classes, feature_dim=hidden[-1])


def last_layer(inputs: int, classes: int) -> Network:
    """MiniLM's last layer with its pretrained weights, and a linear head.

    Args:
        inputs: numbers per token, of which one is the mask.
        classes: of the head.

    Raises:
        ImportError: if the package that holds the weights is missing.
    """
    return Network(LastLayer(), classes, feature_dim=inputs - 1)
