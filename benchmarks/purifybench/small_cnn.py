"""Small networks for CPU: three convolution blocks and a 128-d penultimate layer."""

from collections.abc import Callable

from torch import nn

from .network import FEATURE_DIM


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


def group_norm(channels: int) -> nn.Module:
    """GroupNorm of eight groups."""
    return nn.GroupNorm(8, channels)


def layer_norm(channels: int) -> nn.Module:
    """LayerNorm over channels, height and width, with a scale and shift per channel."""
    return nn.GroupNorm(1, channels)


def _block(channels_in: int, channels_out: int, norm: Callable[[int], nn.Module]) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
    return [convolution, norm(channels_out), nn.ReLU()]


def _pooled_block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU(), nn.MaxPool2d(2)]
