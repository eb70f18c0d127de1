"""Images of auxiliary rows: what is taken for a set of them, and how some of its rows become a batch."""

from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate


def by_position(images: Any) -> Any:
    """Images whose item ``row`` is that of the row's label; raises TypeError for what is read by keys.

    A pandas column is read by place and not by its index, which may have gaps or another order.
    """
    if isinstance(images, Mapping | Set):
        raise TypeError(
            f"`images` must be read by the number of the row, in the order of `groups`, got {type(images).__name__}: give "
            "`list(images.values())`, or, of images with several inputs, a data set whose items are dicts"
        )
    return getattr(images, "iloc", images)


def batch_of(images: Any, rows: Tensor) -> Any:
    """Some rows as one batch.

    Args:
        images: what :func:`by_position` gave; an item may be a tuple whose first member is the image.
        rows: their numbers, int64, shape ``(batch,)``.

    Raises:
        TypeError, RuntimeError, ValueError: if the items are of a kind or of sizes that make no batch.
    """
    if isinstance(images, Tensor):
        return images[rows.to(images.device)]
    if type(images).__module__ == "numpy" and not images.dtype.hasobject:
        return torch.from_numpy(images[rows.numpy()])
    items = [images[row] for row in rows.tolist()]
    try:
        return default_collate([item[0] if isinstance(item, tuple) else item for item in items])
    except (TypeError, RuntimeError, ValueError) as error:
        raise type(error)(
            "`images` must hold items that make a batch, such as tensors of one shape: give the data set a transform that "
            "makes each image one, the task's own, or, for a data set of Hugging Face, use "
            f"`wdpurify.integrations.hf_datasets.group_sampler(..., transform=...)`; {error}"
        ) from error
