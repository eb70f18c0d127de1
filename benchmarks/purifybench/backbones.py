"""Backbones by name: four small networks for CPU and the paper's ten, all with 128 features.

The seven of the digit task have a stem fit for 32x32, the three of the face task are as published, for 224x224.
"""

from collections.abc import Callable, Mapping

import timm
import torch
import torchvision
from torch import nn

from .network import FEATURE_DIM, Network


def small_cnn(norm: Callable[[int], nn.Module]) -> nn.Module:
    """Strided convolutions with BatchNorm, GroupNorm or LayerNorm, averaged to 2x2 places.

    Maps ``(batch, 3, height, width)`` to ``(batch, 128)``; height and width at least 8.
    """
    return nn.Sequential(
        *_block(3, 16, norm),
        *_block(16, 32, norm),
        *_block(32, 64, norm),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4, FEATURE_DIM),
        nn.ReLU(),
    )


def pooled_cnn() -> nn.Module:
    """Wider convolutions with BatchNorm and max pooling, all places kept: what tutorials begin with.

    Maps ``(batch, 3, 32, 32)`` to ``(batch, 128)``.
    """
    return nn.Sequential(
        *_pooled_block(3, 32),
        *_pooled_block(32, 64),
        *_pooled_block(64, 64),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, FEATURE_DIM),
        nn.ReLU(),
    )


def _block(channels_in: int, channels_out: int, norm: Callable[[int], nn.Module]) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
    return [convolution, norm(channels_out), nn.ReLU()]


def _pooled_block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU(), nn.MaxPool2d(2)]


def _with_projection(backbone: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(backbone, nn.Linear(width, FEATURE_DIM), nn.ReLU())


def _timm(name: str, stem: str) -> Callable[[], nn.Module]:
    """A timm model whose first convolution, at the dotted path `stem`, is replaced by a 3x3 one of stride 1."""

    def build() -> nn.Module:
        model = timm.create_model(name, num_classes=0)
        parent, _, name_in_parent = stem.rpartition(".")
        first = model.get_submodule(stem)
        wider = nn.Conv2d(3, first.out_channels, 3, stride=1, padding=1, bias=first.bias is not None)
        setattr(model.get_submodule(parent), name_in_parent, wider)
        if isinstance(getattr(model, "maxpool", None), nn.Module):
            model.maxpool = nn.Identity()
        return _with_projection(model, model.num_features)

    return build


def _averaged(name: str, width: int) -> Callable[[], nn.Module]:
    """The convolutions of a torchvision model, averaged over all places."""

    def build() -> nn.Module:
        model = torchvision.models.get_model(name, weights=None)
        return _with_projection(nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width)

    return build


def _densenet121() -> nn.Module:
    model = torchvision.models.densenet121(weights=None)
    model.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.features.pool0 = nn.Identity()
    width = model.classifier.in_features
    model.classifier = nn.Identity()
    return _with_projection(model, width)


def _shufflenet() -> nn.Module:
    model = torchvision.models.shufflenet_v2_x1_0(weights=None)
    model.conv1[0] = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    width = model.fc.in_features
    model.fc = nn.Identity()
    return _with_projection(model, width)


#: Name -> feature extractor of 128 features. The paper does not say how its stems read 32x32; here none of them shrinks
#: the image before the first stage.
BACKBONES: Mapping[str, Callable[[], nn.Module]] = {
    "small-bn": lambda: small_cnn(nn.BatchNorm2d),
    "small-gn": lambda: small_cnn(lambda channels: nn.GroupNorm(8, channels)),
    "small-ln": lambda: small_cnn(lambda channels: nn.GroupNorm(1, channels)),
    "small-pool": pooled_cnn,
    "resnet18": _timm("resnet18", "conv1"),
    "vgg11": _averaged("vgg11_bn", 512),
    "densenet121": _densenet121,
    "senet": _timm("seresnet18", "conv1"),
    "efficientnet": _timm("efficientnet_b0", "conv_stem"),
    "mobilenetv2": _timm("mobilenetv2_100", "conv_stem"),
    "shufflenetv2": _shufflenet,
    "alexnet": _averaged("alexnet", 256),
    "vgg19": _averaged("vgg19_bn", 512),
    "resnet34": lambda: _with_projection(timm.create_model("resnet34", num_classes=0), 512),
}


def reads(name: str, image_size: int) -> bool:
    """Whether a backbone can read images of this size at all; some shrink small ones to nothing."""
    try:
        with torch.device("meta"):
            build_network(name, 2).eval()(torch.zeros(2, 3, image_size, image_size))
    except RuntimeError:
        return False
    return True


def build_network(name: str, n_classes: int) -> Network:
    """A fresh network; its weights come from torch's global random state.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in BACKBONES:
        raise ValueError(f"`backbone` must be one of {', '.join(BACKBONES)}, got {name!r}")
    return Network(BACKBONES[name](), n_classes)
