"""The extractor under audit: always a copy of the user's model, or a timm backbone by name."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify._torch import unwrap
from wdpurify.features import FeatureTap, check_features, pool_features

from ._optional import optional

#: Rows per forward pass without a graph.
CHUNK = 256


class Extractor:
    """A copy of a model and the way from images to its features; the model itself is neither run nor changed.

    Args:
        model: any module; wrappers such as DDP are looked through.
        layer: the layer whose input is the features; None finds the classifier.
        features: called as ``features(copy_of_model, images)`` in place of reading a layer's input.
        device: where the copy goes; None stays with the model.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layer: str | None = None,
        features: Callable[[Any, Tensor], Tensor] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module or the name of a timm model, got {type(model).__name__}")
        if features is not None and layer is not None:
            raise ValueError("`layer` and `features` both say where features come from: give one of them")
        own = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.device = torch.device(device) if device is not None else own
        self.model = copy.deepcopy(unwrap(model)).to(self.device)
        self._layer = layer
        self._features = features
        self._tap = FeatureTap(self.model, layer) if features is None else None

    def copy(self) -> "Extractor":
        """One more, with weights of its own."""
        return Extractor(self.model, layer=self._layer, features=self._features)

    def features(self, images: Tensor) -> Tensor:
        """Features of a batch, ``(batch, dim)``, float32, with the graph that grad mode asks for."""
        images = images.to(self.device)
        if self._features is not None:
            found = self._features(self.model, images)
            width = None
        else:
            assert self._tap is not None
            found = self._tap(images)
            width = self._tap.feature_dim
        check_features(found, width)
        if width is None and found.ndim == 4:  # channels first, as nearly everywhere
            width = found.shape[1]
        return pool_features(found, width)

    @torch.no_grad()
    def all_features(self, images: Tensor) -> Tensor:
        """Features of all rows in evaluation mode, ``(rows, dim)``, on the CPU."""
        self.model.eval()
        found = torch.cat([self.features(chunk).cpu() for chunk in images.split(CHUNK)])
        if not found.isfinite().all():
            raise ValueError(f"features of {int((~found.isfinite()).any(1).sum())} of {len(found)} rows are not finite")
        return found


class Backbone(nn.Module):
    """A timm model without its classifier, for images in [0, 1].

    Args:
        name: as timm knows it.
        pretrained: load its published weights, from the cache or the hub.

    Raises:
        ValueError: for a name that timm does not know, with the nearest ones; or if its weights are out of reach.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, *, pretrained: bool = True) -> None:
        super().__init__()
        timm = optional("timm", "a backbone by name")
        if not name.startswith(("hf-hub:", "local-dir:")) and not timm.is_model(name.partition(".")[0]):
            near = timm.list_models(f"*{name.partition('.')[0][:6]}*")[:5]
            raise ValueError(f"`model` must be a name that timm knows, got {name!r}; near are {', '.join(near) or 'none'}")
        try:
            self.network = timm.create_model(name, pretrained=pretrained, num_classes=0)
        except OSError as error:  # the hub's own kinds among them
            raise ValueError(
                f"`model` {name!r}: its published weights cannot be had ({error}); go without: pretrained=False"
            ) from error
        config = timm.data.resolve_model_data_config(self.network)
        self.image_size = int(config["input_size"][-1])
        for part in ("mean", "std"):
            self.register_buffer(part, torch.tensor(config[part]).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features, ``(batch, dim)``, of images ``(batch, 3, height, width)`` in [0, 1]."""
        found: Tensor = self.network((images - self.mean) / self.std)
        return found


def run(model: nn.Module, images: Tensor) -> Tensor:
    """What a module that already returns features gives."""
    found: Tensor = model(images)
    return found
