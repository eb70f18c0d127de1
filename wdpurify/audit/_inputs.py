"""Reads rows in batches, collated like those of `GroupSampler`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wdpurify._rows import Collator, batch_of, by_position
from wdpurify._sources import refuse_rows

#: Rows per forward pass without a graph: of tensors, and of texts and the like, which may be long.
CHUNK = 256
RAGGED = 32


class Inputs:
    """Some rows of what a `GroupSampler` takes.

    Args:
        rows: a tensor, an array or any sized object that is indexed by row number.
        collate_fn: makes a batch of the list of items.
        transform: function of each batch, after ``collate_fn``.
        chosen: the rows that count; None takes all.

    Raises:
        TypeError: for what has no rows by number, with what to write instead.
    """

    def __init__(
        self,
        rows: Any,
        *,
        collate_fn: Collator | None = None,
        transform: Callable[[Any], Any] | None = None,
        chosen: Tensor | None = None,
    ) -> None:
        self._given = rows
        try:
            self._rows = by_position(rows)
            refuse_rows(rows, prepared=not (transform is None and collate_fn is None))
        except TypeError as error:  # in the sampler's words, whose argument has another name
            raise TypeError(str(error).replace("images", "rows")) from error
        self._collate_fn = collate_fn
        self._transform = transform
        self._chosen = torch.arange(len(rows)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, places: Tensor) -> Any:
        """Return a batch of the rows at these places."""
        batch = batch_of(self._rows, self._chosen[places], self._collate_fn)
        return self._transform(batch) if self._transform else batch

    def part(self, places: Tensor) -> "Inputs":
        """Select the rows at these places, or of this mask."""
        return Inputs(self._given, collate_fn=self._collate_fn, transform=self._transform, chosen=self._chosen[places.cpu()])

    def chunks(self) -> list[Tensor]:
        """Yield the places of all rows, in parts for one forward each."""
        return list(torch.arange(len(self)).split(CHUNK if isinstance(self._given, Tensor) else RAGGED))

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of a row, if all rows are one tensor."""
        return tuple(self._given.shape[1:]) if isinstance(self._given, Tensor) else None


def features_of(inputs: Inputs, name: str = "rows") -> Tensor:
    """Rows that are features themselves, ``(rows, dim)``, float32, on the CPU.

    Raises:
        TypeError: if they are no floating point numbers.
        ValueError: for another shape, or numbers that are not finite.
    """
    found = inputs[torch.arange(len(inputs))]
    if not isinstance(found, Tensor) or not found.is_floating_point():
        came = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"`{name}` must be floating point features of shape (rows, dim) without a `model`, got {came}")
    if found.ndim != 2 or not found.isfinite().all():
        shape = tuple(found.shape)
        raise ValueError(f"`{name}` must be finite features of shape (rows, dim) without a `model`, got shape {shape}")
    return found.detach().float().cpu()
