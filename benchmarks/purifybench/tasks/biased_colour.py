"""The paper's running example made measurable: the background colour of most training digits gives the class away."""

from dataclasses import replace

import torch
from torch import Tensor

from ._types import Auxiliary, Split, Task
from .handwriting import Digits, draw_with_replacement, load_handwriting

#: Ten hues of equal steps, as RGB in [0, 1].
COLOURS = torch.tensor(
    [[max(0.0, min(1.0, abs((hue / 10.0 * 6.0 + shift) % 6.0 - 3.0) - 1.0)) for shift in (0.0, 4.0, 2.0)] for hue in range(10)]
)
AUXILIARY_ROWS = 2000


def build(
    *, seed: int, image_size: int = 16, bias: float = 0.95, keep_colours: bool = False, every_colour: bool = False
) -> Task:
    """White digits on coloured ground; in ``bias`` of the training digits the colour's number equals the digit.

    The auxiliary digits are other ones, coloured at random and labelled with their colour alone. The clean test has the
    training bias, the shifted test random colours. The upper bound trains on the same digits in random colours.

    Args:
        seed: split, colours and noise.
        image_size: pixels.
        bias: share in [0, 1]; colours of the remaining digits are uniform.
        keep_colours: say of every split which colour its digits have.
        every_colour: show each digit of the shifted test in every colour, so that each pair of digit and colour has many rows.
    """
    if not 0 <= bias <= 1:
        raise ValueError(f"`bias` must be in [0, 1], got {bias}")
    generator = torch.Generator().manual_seed(seed)
    parts = load_handwriting(image_size, generator)

    def painted(digits: Digits, share: float) -> Split:
        colours = _colours(digits.labels, share, generator)
        return Split(_paint(digits.ink, colours, generator), digits.labels, colours if keep_colours else None)

    def in_every_colour(digits: Digits) -> Split:
        colours = torch.arange(10).repeat(len(digits.labels))
        ink = digits.ink.repeat_interleave(10, 0)
        return Split(_paint(ink, colours, generator), digits.labels.repeat_interleave(10), colours if keep_colours else None)

    auxiliary = draw_with_replacement(parts.auxiliary, AUXILIARY_ROWS, generator)
    colours = _colours(auxiliary.labels, 0.0, generator)
    task = Task(
        name="biased colour",
        n_classes=10,
        train=painted(parts.train, bias),
        validation=painted(parts.validation, bias),
        tests={"clean": painted(parts.test, bias), "shifted": painted(parts.test, 0.0)},
        auxiliary=Auxiliary(_paint(auxiliary.ink, colours, generator), colours.tolist(), fixed=0),
        upper=painted(parts.train, 0.0),
        oracle=painted(parts.validation, 0.0),
    )
    return replace(task, tests=task.tests | {"shifted": in_every_colour(parts.test)}) if every_colour else task


def _colours(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    free = torch.randint(10, labels.shape, generator=generator)
    return torch.where(torch.rand(labels.shape, generator=generator) < share, labels, free)


def _paint(ink: Tensor, colours: Tensor, generator: torch.Generator) -> Tensor:
    """White ink on coloured ground of uneven brightness, as bytes of shape ``(rows, 3, size, size)``."""
    brightness = 0.5 + 0.3 * torch.rand((len(ink), 1, 1, 1), generator=generator)
    ground = COLOURS[colours][:, :, None, None] * brightness
    image = ground * (1.0 - ink[:, None]) + ink[:, None]
    noisy = image + 0.05 * torch.randn(image.shape, generator=generator)
    return (noisy.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
