"""Backbones by name: four small networks for CPU and the paper's ten, all with 128 features.

The seven of the digit task have a stem fit for 32x32, the three of the face task are as published, for 224x224.
"""

from collections.abc import Callable, Mapping
from functools import partial

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


def _small_stem(make: Callable[[], nn.Module], stem: str, *, pool: str = "", head: str = "") -> Callable[[], nn.Module]:
    """A model whose first convolution becomes a 3x3 one of stride 1.

    Args:
        make: makes it as published.
        stem, pool, head: dotted paths of the first convolution, and of a first pooling and a classifier to leave out.
    """

    def build() -> nn.Module:
        model = make()
        first = model.get_submodule(stem)
        model.set_submodule(stem, nn.Conv2d(3, first.out_channels, 3, padding=1, bias=first.bias is not None))
        width = model.get_submodule(head).in_features if head else model.num_features
        for path in filter(None, (pool, head)):
            model.set_submodule(path, nn.Identity())
        return _with_projection(model, width)

    return build


def _averaged(name: str, width: int) -> Callable[[], nn.Module]:
    """The convolutions of a torchvision model, averaged over all places."""

    def build() -> nn.Module:
        model = torchvision.models.get_model(name, weights=None)
        return _with_projection(nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width)

    return build


def _timm(name: str) -> Callable[[], nn.Module]:
    return partial(timm.create_model, name, num_classes=0)


#: Name -> feature extractor of 128 features. The paper does not say how its stems read 32x32; here none of them shrinks
#: the image before the first stage.
BACKBONES: Mapping[str, Callable[[], nn.Module]] = {
    "small-bn": lambda: small_cnn(nn.BatchNorm2d),
    "small-gn": lambda: small_cnn(lambda channels: nn.GroupNorm(8, channels)),
    "small-ln": lambda: small_cnn(lambda channels: nn.GroupNorm(1, channels)),
    "small-pool": pooled_cnn,
    "resnet18": _small_stem(_timm("resnet18"), "conv1", pool="maxpool"),
    "vgg11": _averaged("vgg11_bn", 512),
    "densenet121": _small_stem(torchvision.models.densenet121, "features.conv0", pool="features.pool0", head="classifier"),
    "senet": _small_stem(_timm("seresnet18"), "conv1", pool="maxpool"),
    "efficientnet": _small_stem(_timm("efficientnet_b0"), "conv_stem"),
    "mobilenetv2": _small_stem(_timm("mobilenetv2_100"), "conv_stem"),
    "shufflenetv2": _small_stem(torchvision.models.shufflenet_v2_x1_0, "conv1.0", pool="maxpool", head="fc"),
    "alexnet": _averaged("alexnet", 256),
    "vgg19": _averaged("vgg19_bn", 512),
    "resnet34": lambda: _with_projection(_timm("resnet34")(), 512),
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
