"""Lightning: a callback that adds the purify term to the loss of a module, without changes to the module.

Works with ``lightning`` and with ``pytorch_lightning``, depending on the program's imports.
"""

import functools
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from wdpurify import PurifyRegularizer
from wdpurify.pull import add_term

from ._extras import install

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from wdpurify._options import PurifyOptions
    from wdpurify._sampler import Sampler


def _callback_classes() -> tuple[type, ...]:
    """Return the imported distributions' base classes: each distribution accepts only callbacks of its base class."""
    loaded = [sys.modules[name].Callback for name in ("lightning.pytorch", "pytorch_lightning") if name in sys.modules]
    if loaded:
        return tuple(dict.fromkeys(loaded))
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise ImportError(f"this needs Lightning: {install('lightning')}") from error
    return (Callback,)


class PurifyCallback(*_callback_classes()):  # type: ignore[misc]
    """Adds the purify term to the result of ``training_step``: ``Trainer(callbacks=[PurifyCallback(sampler)])``.

    The module, its optimisers and its checkpoint's weights do not change; the regularizer's state is a callback state.

    Args:
        sampler: draws auxiliary batches.
        model: name of the submodule that maps images to logits (``"model"``, ``"net.backbone"``); None for the
            LightningModule itself.
        layer: name of the layer of that model whose input is the features; None selects the classifier.
        log_every: log the regularizer's metrics at each ``log_every``-th optimiser step, which waits for the device; 0 never.
        **options: options of :class:`wdpurify.PurifyRegularizer`.

    Raises:
        ValueError: at the start of the fit, for a module with manual optimisation or without the submodule ``model``.
    """

    def __init__(
        self,
        sampler: "Sampler",
        *,
        model: str | None = None,
        layer: str | None = None,
        log_every: int = 50,
        **options: "Unpack[PurifyOptions]",
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.model = model
        self.layer = layer
        self.log_every = log_every
        self.options = options
        self.purify: PurifyRegularizer | None = None
        self._fitting = False
        self._saved: dict[str, Any] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Register the tap before Lightning wraps the model, and add the term to the training step."""
        if stage != "fit" or self._fitting:
            return
        if not pl_module.automatic_optimization:
            raise ValueError(
                "`PurifyCallback` needs automatic optimisation, got a module with manual optimisation. Make "
                "`purify = PurifyRegularizer.for_model(model, sampler)` in the module and add `purify.loss()` to the loss"
            )
        self.purify = PurifyRegularizer.for_model(self._tapped(pl_module), self.sampler, layer=self.layer, **self.options)
        if self._saved is not None:
            self.purify.load_state_dict(self._saved)
        step = pl_module.training_step

        @functools.wraps(step)
        def training_step(*arguments: Any, **named: Any) -> Any:
            return self._with_term(step(*arguments, **named))

        pl_module.training_step = training_step
        self._fitting = True

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Restore the module; keep the state for a later fit, and the regularizer for ``purify.erase(loader)``."""
        if self.purify is not None and self._fitting:
            self._saved = self.purify.state_dict()
            self.purify.remove()
            self._fitting = False
            vars(pl_module).pop("training_step", None)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Log the metrics at every ``log_every``-th step."""
        if self.log_every and self.purify is not None and self._fitting and trainer.global_step % self.log_every == 0:
            pl_module.log_dict(self.purify.metrics().as_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the regularizer's state for the checkpoint."""
        fitting = self.purify is not None and self._fitting
        return self.purify.state_dict(all_ranks=True) if fitting else dict(self._saved or {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._saved = state_dict or None
        if self.purify is not None and self._fitting and self._saved is not None:
            self.purify.load_state_dict(self._saved)

    def _tapped(self, pl_module: nn.Module) -> nn.Module:
        if self.model is None:
            return pl_module
        layers = dict(pl_module.named_modules())
        if self.model not in layers:
            raise ValueError(
                f"`model` must be the name of a submodule of {type(pl_module).__name__}, got {self.model!r}. "
                f"Choose from {', '.join(name for name, _ in pl_module.named_children())}"
            )
        return layers[self.model]

    def _with_term(self, output: Any) -> Any:
        if output is None or self.purify is None or not self._fitting:  # None makes Lightning skip the batch
            return output
        term = self.purify.loss()
        if isinstance(output, Mapping):
            return {**output, "loss": add_term(output["loss"], term)}
        return add_term(output, term) if isinstance(output, Tensor) else output
