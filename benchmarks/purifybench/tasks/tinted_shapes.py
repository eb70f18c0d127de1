"""Few pictures of two shapes on three tints, as a newcomer's first trial has them: the tint of most gives the shape away."""

import torch
from torch import Tensor

from ._types import Auxiliary, Split, Task

#: Tints of the ground, as RGB bytes.
TINTS = torch.tensor([[200.0, 120.0, 120.0], [120.0, 200.0, 120.0], [120.0, 120.0, 200.0]])
#: Shapes are lighter or darker than their ground, by channel, by this much.
CONTRAST = (20.0, 40.0)
UNEVENNESS = 15.0
NOISE = 8.0
ROWS = 400
AUXILIARY_ROWS = 300
#: Of each test and validation split.
HELD_OUT_ROWS = 600


def build(*, seed: int, image_size: int = 32, bias: float = 0.9) -> Task:
    """Discs and squares. In ``bias`` of the training pictures discs have the first tint, squares one of the other two.

    The auxiliary pictures are other ones, of shapes and tints at random, labelled with their tint alone. The clean test has the
    training bias, the shifted test tints at random. The upper bound trains on as many pictures in random tints.

    Args:
        seed: all that is drawn.
        image_size: pixels.
        bias: share in [0, 1]; the remaining pictures have the tints of the other shape.
    """
    if not 0 <= bias <= 1:
        raise ValueError(f"`bias` must be in [0, 1], got {bias}")
    generator = torch.Generator().manual_seed(seed)

    def drawn(rows: int, share: float | None) -> Split:
        shapes = torch.randint(2, (rows,), generator=generator)
        tints = _tints(shapes, share, generator)
        return Split(_draw(shapes, tints, image_size, generator), shapes, tints)

    train = drawn(ROWS, bias)
    auxiliary = drawn(AUXILIARY_ROWS, None)
    assert auxiliary.groups is not None
    return Task(
        name="tinted shapes",
        n_classes=2,
        train=train,
        validation=drawn(HELD_OUT_ROWS, bias),
        tests={"clean": drawn(HELD_OUT_ROWS, bias), "shifted": drawn(HELD_OUT_ROWS, None)},
        auxiliary=Auxiliary(auxiliary.images, auxiliary.groups.tolist(), fixed=0),
        upper=drawn(ROWS, None),
        oracle=drawn(HELD_OUT_ROWS, None),
    )


def _tints(shapes: Tensor, share: float | None, generator: torch.Generator) -> Tensor:
    """The tint of each picture; at random, whatever its shape, where ``share`` is None."""
    if share is None:
        return torch.randint(len(TINTS), shapes.shape, generator=generator)
    fits = torch.rand(shapes.shape, generator=generator) < share
    others = torch.randint(1, len(TINTS), shapes.shape, generator=generator)
    return torch.where((shapes == 0) == fits, 0, others)


def _draw(shapes: Tensor, tints: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Pictures as bytes, shape ``(rows, 3, size, size)``."""
    rows = len(shapes)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand((rows, *shape, 1, 1), generator=generator)

    places = torch.arange(size).float() + 0.5
    across = (places[None, None, None, :] - size * between(3 / 8, 5 / 8, 1)).abs()
    down = (places[None, None, :, None] - size * between(3 / 8, 5 / 8, 1)).abs()
    radius = size * between(6 / 32, 9 / 32, 1)
    disc = across.square() + down.square() <= radius.square()
    side = radius - size / 32  # about as large as the disc
    square = (across <= side) & (down <= side)
    ground = TINTS[tints][:, :, None, None] + between(-UNEVENNESS, UNEVENNESS, 3)
    darker = torch.where(between(0.0, 1.0, 3) < 0.5, -1.0, 1.0)
    inside = torch.where(shapes[:, None, None, None] == 0, disc, square)
    picture = ground + inside * darker * between(*CONTRAST, 3)
    noisy = picture + NOISE * torch.randn(picture.shape, generator=generator)
    return noisy.clamp(0.0, 255.0).round().to(torch.uint8)
