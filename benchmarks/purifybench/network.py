"""The shape that every benchmark network has: a feature extractor and a linear head."""

from torch import Tensor, nn

#: Width of the penultimate layer, as in the paper (Sec. IV-A).
FEATURE_DIM = 128


class Network(nn.Module):
    """`features` maps images to ``(batch, 128)``, `head` maps those to class scores."""

    def __init__(self, features: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(FEATURE_DIM, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(images))
        return scores
