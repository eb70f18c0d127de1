"""Reads the images of auxiliary rows and collates some of them to a batch."""

from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate


def by_position(images: Any) -> Any:
    """Return images that can be indexed by row number; raises TypeError for a mapping or a set.

    A pandas column becomes its ``iloc``, because its index may have gaps or another order.
    """
    if isinstance(images, Mapping | Set):
        raise TypeError(
            f"`images` must be indexed by row number, in the order of `groups`, got {type(images).__name__}. Give "
            "`list(images.values())`, or, for images with several inputs, a data set whose items are dicts"
        )
    return getattr(images, "iloc", images)


def batch_of(images: Any, rows: Tensor) -> Any:
    """Collate some rows to one batch.

    Args:
        images: result of :func:`by_position`; an item may be a tuple whose first member is the image.
        rows: row numbers, int64, shape ``(batch,)``.

    Raises:
        TypeError, RuntimeError, ValueError: if the types or sizes of the items do not allow a batch.
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
            "`images` must hold items that collate to a batch, such as tensors of one shape. Give the data set the task's "
            "transform, or, for a Hugging Face data set, use "
            f"`wdpurify.integrations.hf_datasets.group_sampler(..., transform=...)`. Collating failed with: {error}"
        ) from error
