"""Accelerate: a regularizer for a prepared model, with its state in the checkpoints and its metrics in the trackers.

Do not pass the auxiliary data to ``accelerator.prepare``: a prepared loader in the middle of an epoch makes Accelerate skip a
gradient synchronisation. Sampler and critic detect the other ranks.
"""

import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ._extras import install

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError(f"this needs Accelerate: {install('accelerate')}") from error
from torch import nn

from wdpurify import PurifyRegularizer
from wdpurify.exceptions import ResumeWarning

from ._files import save_whole

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from wdpurify._options import PurifyOptions
    from wdpurify._sampler import Sampler

#: Names of the regularizers in each accelerator's checkpoints.
_names: "weakref.WeakKeyDictionary[Accelerator, set[str]]" = weakref.WeakKeyDictionary()


def purified(
    accelerator: Accelerator,
    model: nn.Module,
    sampler: "Sampler",
    *,
    layer: str | None = None,
    name: str = "purify",
    **options: "Unpack[PurifyOptions]",
) -> PurifyRegularizer:
    """Make a regularizer for a model of this accelerator, and add its state to ``save_state()`` and ``load_state()``.

    Use it as ``criterion = purified(accelerator, model, sampler).criterion(criterion)``, or add its ``loss()`` to a loss that
    the model computes. Its state is the file ``purify.pt`` in the checkpoint's folder. For a checkpoint without this file,
    from before you added the regularizer, it starts afresh with a warning.

    Args:
        accelerator: the run's accelerator.
        model: the model, before or after ``accelerator.prepare``; a compiled model before its first forward pass.
        sampler: draws auxiliary batches; do not prepare it.
        layer: name of the layer whose input is the features; None selects the classifier.
        name: name of the file; a second regularizer of one accelerator needs another name.
        **options: options of :class:`wdpurify.PurifyRegularizer`.

    Raises:
        ValueError: if the accelerator has a regularizer with this name.
    """
    names = _names.setdefault(accelerator, set())
    if name in names:
        raise ValueError(f"`name` must be unique among the regularizers of an accelerator, got {name!r} again. Give another")
    purify = PurifyRegularizer.for_model(model, sampler, layer=layer, **options)
    names.add(name)
    file = f"{name}.pt"

    def save(models: Any, weights: Any, folder: str) -> None:
        state = purify.state_dict(all_ranks=True)
        each_node = accelerator.project_configuration.save_on_each_node
        if accelerator.is_local_main_process if each_node else accelerator.is_main_process:
            save_whole(state, Path(folder, file))

    def load(models: Any, folder: str) -> None:
        path = Path(folder, file)
        if path.exists():
            purify.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
        else:
            message = f"{path} does not exist, so the regularizer starts afresh. Check the folder"
            warnings.warn(message, ResumeWarning, stacklevel=3)

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)
    return purify


def log_metrics(
    accelerator: Accelerator, purify: PurifyRegularizer, *, step: int, every: int = 50, prefix: str = "purify/"
) -> None:
    """Send the regularizer's metrics to the accelerator's trackers.

    Args:
        accelerator: the run's accelerator, after ``init_trackers``.
        purify: the regularizer.
        step: number of the step, for the trackers.
        every: log at each ``every``-th step, at least 1; only these steps wait for the device.
        prefix: prefix of each name.
    """
    if not every >= 1:
        raise ValueError(f"`every` must be at least 1, got {every}")
    if step % every == 0:
        accelerator.log(purify.metrics().as_dict(prefix), step=step)
