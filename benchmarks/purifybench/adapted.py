"""Networks from elsewhere in the shape of the benchmarks: timm's by name, and what any `package.module:callable` returns."""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import Normalize

from wdpurify.audit._backbone import called
from wdpurify.features.classifier import find_classifier

from .backbones import BACKBONES, build_network
from .network import Network

#: Side of the image that tells how wide the features are.
PROBE_SIZE = 64


def normalised(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """A model that gets images normalised by its own mean and deviation; it is given pixels in [-1, 1].

    Args:
        model: reads ``(batch, 3, height, width)``.
        mean, std: of pixels in [0, 1], one value per channel.
    """
    return nn.Sequential(Normalize([2.0 * value - 1.0 for value in mean], [2.0 * value for value in std]), model)


def network_named(name: str, n_classes: int, options: Mapping[str, Any]) -> Network:
    """A network by any name that the benchmarks know.

    Args:
        name: one of `BACKBONES`, ``package.module:callable``, or a timm model; a `Network` that the callable returns stays as
            it is.
        n_classes: width of the new head.
        options: for the callable, or for ``timm.create_model``; of the latter ``weights`` is a file of pretrained weights.

    Raises:
        ValueError: if there is no such network, or it has no classifier to replace.
    """
    if name in BACKBONES:
        return build_network(name, n_classes)
    if ":" in name:
        made = called(name, options, argument="network")
        return made if isinstance(made, Network) else adapt(made, n_classes)
    if not timm.is_model(name):
        raise ValueError(
            f"`network` must be one of {', '.join(BACKBONES)}, a timm model or package.module:callable, got {name!r}"
        )
    return adapt(_timm_model(name, **options), n_classes)


def adapt(model: nn.Module, n_classes: int) -> Network:
    """The model up to its classifier as the extractor, and a new head.

    Args:
        model: its classifier is replaced by an identity.
        n_classes: width of the new head.

    Raises:
        ValueError: if no classifier is found, or what it reads is no row per image.
    """
    classifier = find_classifier(model)
    if not classifier:
        raise ValueError("`network` must have a classifier that can be replaced, such as a last nn.Linear, and has none")
    model.set_submodule(classifier, nn.Identity())
    features = model.to(memory_format=torch.channels_last)  # depthwise convolutions are twice as fast so on a CPU
    with torch.no_grad():
        found = features.eval()(torch.zeros(2, 3, PROBE_SIZE, PROBE_SIZE))
    if not isinstance(found, Tensor) or found.ndim != 2:
        came = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"`network` must give its classifier {classifier} features of shape (batch, dim), got {came}")
    return Network(features.train(), n_classes, feature_dim=found.shape[1])


def _timm_model(name: str, *, weights: str | None = None, pretrained: bool = False, **options: Any) -> nn.Module:
    given = {"pretrained_cfg_overlay": {"file": weights}} if weights else {}
    model = timm.create_model(name, pretrained=pretrained or weights is not None, **given, **options)
    configuration = model.pretrained_cfg
    return normalised(model, configuration["mean"], configuration["std"])
