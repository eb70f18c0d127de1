"""Accelerate: a regularizer for a prepared model, saved and loaded with the run, its figures sent to the trackers.

The auxiliary data stay out of ``accelerator.prepare``: a prepared loader that is left half-read would make Accelerate cancel a
gradient synchronisation. Sampler and critic find the other ranks by themselves.
"""

import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError('this needs Accelerate: pip install "wdpurify[accelerate]"') from error
from torch import nn

from wdpurify import PurifyRegularizer
from wdpurify.exceptions import ResumeWarning

from ._files import save_whole

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from wdpurify._options import PurifyOptions
    from wdpurify._sampler import Sampler

#: Names under which each accelerator's checkpoints hold regularizers.
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
    """A regularizer for a model of this accelerator, part of ``save_state()`` and ``load_state()``.

    Use it as ``criterion = purified(accelerator, model, sampler).criterion(criterion)``, or add its ``loss()`` to a loss that
    the model computes. Its state is a file of its own in the checkpoint's folder, ``purify.pt``; a checkpoint without it, from
    before the regularizer was added, is loaded with a warning and starts it afresh.

    Args:
        accelerator: the run's accelerator.
        model: the model, before or after ``accelerator.prepare``; before the first forward of a compiled one.
        sampler: draws auxiliary batches; not prepared.
        layer: name of the layer whose input is the features; None takes the classifier.
        name: of the file; a second regularizer of one accelerator needs another.
        **options: of :class:`wdpurify.PurifyRegularizer`.

    Raises:
        ValueError: if the accelerator has a regularizer of this name.
    """
    names = _names.setdefault(accelerator, set())
    if name in names:
        raise ValueError(f"`name` must be another one for each regularizer of an accelerator, {name!r} is taken")
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
            warnings.warn(f"{path} is not there: the regularizer starts afresh", ResumeWarning, stacklevel=3)

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)
    return purify


def log_metrics(
    accelerator: Accelerator, purify: PurifyRegularizer, *, step: int, every: int = 50, prefix: str = "purify/"
) -> None:
    """Send the regularizer's figures to the accelerator's trackers.

    Args:
        accelerator: a run whose trackers were started with ``init_trackers``.
        purify: the regularizer.
        step: number of the step, for the trackers.
        every: log at each ``every``-th step, at least 1; only these steps wait for the device.
        prefix: put before each name.
    """
    if not every >= 1:
        raise ValueError(f"`every` must be at least 1, got {every}")
    if step % every == 0:
        accelerator.log(purify.metrics().measured(prefix), step=step)
