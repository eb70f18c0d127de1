"""Digits on black against digits blended with photographs by MNIST-M's recipe, from photographs that packages bundle."""

from collections.abc import Sequence

import skimage
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import Tensor

from ._types import Auxiliary, Split, Task
from .handwriting import Digits, draw_with_replacement, load_handwriting

#: Whole photographs are held out, never crops. Credits are in benchmarks/README.md.
AUXILIARY_PHOTOS = ("china", "astronaut", "coffee")
TEST_PHOTOS = ("flower", "chelsea", "rocket")
AUXILIARY_ROWS = 2000


def build(*, seed: int, image_size: int = 16) -> Task:
    """Train on digits on black; the auxiliary digits are other ones, half on black, half blended, labelled with that alone.

    The clean test is on black, the shifted test is blended with photographs that no training image has seen. The upper bound
    trains on the same digits blended with the auxiliary photographs.

    Args:
        seed: split and crops.
        image_size: pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = load_handwriting(image_size, generator)
    auxiliary_photos, test_photos = ([_load(name) for name in names] for names in (AUXILIARY_PHOTOS, TEST_PHOTOS))

    def black(digits: Digits) -> Split:
        ground = torch.zeros((len(digits.ink), 3, image_size, image_size), dtype=torch.uint8)
        return Split(blend(digits.ink, ground), digits.labels)

    def blended(digits: Digits, photos: Sequence[Tensor]) -> Split:
        return Split(blend(digits.ink, crops(photos, len(digits.ink), image_size, generator)), digits.labels)

    drawn = draw_with_replacement(parts.auxiliary, AUXILIARY_ROWS, generator)
    half = AUXILIARY_ROWS // 2
    first, second = (Digits(drawn.ink[rows], drawn.labels[rows]) for rows in (slice(half), slice(half, None)))
    return Task(
        name="photo",
        n_classes=10,
        train=black(parts.train),
        validation=black(parts.validation),
        tests={"clean": black(parts.test), "shifted": blended(parts.test, test_photos)},
        auxiliary=Auxiliary(
            torch.cat([black(first).images, blended(second, auxiliary_photos).images]),
            ["black"] * half + ["photo"] * half,
            fixed="black",
        ),
        upper=blended(parts.train, auxiliary_photos),
        oracle=blended(parts.validation, auxiliary_photos),
    )


def blend(ink: Tensor, ground: Tensor, *, threshold: float = 0.5) -> Tensor:
    """MNIST-M's recipe: the ground inverted under the ink.

    Args:
        ink: in [0, 1], shape ``(rows, size, size)``.
        ground: bytes, shape ``(rows, 3, size, size)``.
        threshold: what counts as ink. MNIST-M takes every pixel above 0; enlarged 8x8 digits would grow fat by that.

    Returns:
        Bytes of the shape of ``ground``.
    """
    return torch.where((ink >= threshold)[:, None], 255 - ground, ground)


def crops(photos: Sequence[Tensor], count: int, size: int, generator: torch.Generator) -> Tensor:
    """``count`` random square crops of random photographs, bytes of shape ``(count, 3, size, size)``."""
    which = torch.randint(len(photos), (count,), generator=generator).tolist()
    places = torch.rand((count, 2), generator=generator).tolist()
    taken = []
    for photo, (down, right) in zip(which, places, strict=True):
        height, width = photos[photo].shape[1:]
        top = int(down * (height - size + 1))
        left = int(right * (width - size + 1))
        taken.append(photos[photo][:, top : top + size, left : left + size])
    return torch.stack(taken)


def _load(name: str) -> Tensor:
    """A bundled photograph at half its size, bytes of shape ``(3, height, width)``."""
    whole = getattr(skimage.data, name)() if hasattr(skimage.data, name) else load_sample_image(f"{name}.jpg")
    image = torch.from_numpy(whole.copy()).permute(2, 0, 1)
    return F.avg_pool2d(image.float()[None], 2)[0].round().to(torch.uint8)
