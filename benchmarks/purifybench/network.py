"""The shape that every benchmark network has: a feature extractor and a linear head."""

import torch
from torch import Tensor, nn

from .tasks._types import to_float

#: Width of the penultimate layer, as in the paper (Sec. IV-A); networks from elsewhere have their own.
FEATURE_DIM = 128


class Network(nn.Module):
    """`features` maps images to ``(batch, feature_dim)``, `head` maps those to class scores."""

    def __init__(self, features: nn.Module, n_classes: int, *, feature_dim: int = FEATURE_DIM) -> None:
        super().__init__()
        self.features = features
        self.feature_dim = feature_dim
        self.head = nn.Linear(feature_dim, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(images))
        return scores


@torch.no_grad()
def features_of(network: Network, images: Tensor, device: torch.device) -> Tensor:
    """Features of images in bytes, in evaluation mode; the network is in training mode afterwards."""
    network.eval()
    found = torch.cat([network.features(to_float(part.to(device))) for part in images.split(500)])
    network.train()
    return found
