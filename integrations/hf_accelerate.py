"""Accelerate: a regularizer for a prepared model, saved and loaded with the run, its figures sent to the trackers.

The auxiliary data stay out of ``accelerator.prepare``: a prepared loader that is left half-read would make Accelerate cancel a
gradient synchronisation. Sampler and critic find the other ranks by themselves.
"""

from typing import TYPE_CHECKING, Any

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError('this needs Accelerate: pip install "wdpurify[accelerate]"') from error
from torch import nn

from wdpurify import PurifyRegularizer, Sampler

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from wdpurify import PurifyOptions


def purified(
    accelerator: Accelerator,
    model: nn.Module,
    sampler: Sampler,
    *,
    layer: str | None = None,
    **options: "Unpack[PurifyOptions]",
) -> PurifyRegularizer:
    """A regularizer for a model of this accelerator, part of ``save_state()`` and ``load_state()``.

    Use it as ``criterion = purified(accelerator, model, sampler).criterion(criterion)``, or add its ``term()`` to a loss that
    the model computes. Make it in the same place of every run: Accelerate tells registered objects apart by their order.

    Args:
        accelerator: the run's accelerator.
        model: the model, before or after ``accelerator.prepare``; before the first forward of a compiled one.
        sampler: draws auxiliary batches; not prepared.
        layer: name of the layer whose input is the features; None takes the classifier.
        **options: of :class:`wdpurify.PurifyRegularizer`.
    """
    purify = PurifyRegularizer.for_model(model, sampler, layer=layer, **options)
    accelerator.register_for_checkpointing(purify)
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
        figures: dict[str, Any] = {prefix + name: value for name, value in purify.metrics()._asdict().items()}
        accelerator.log(figures, step=step)
