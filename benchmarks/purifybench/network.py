"""The shape that every benchmark network has: a feature extractor and a linear head."""

from torch import Tensor, nn

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
