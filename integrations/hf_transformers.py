"""transformers: adds the purify term to the loss of a ``Trainer``, without changes to script, model or subclass."""

import functools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._extras import install

try:
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint
except ImportError as error:
    raise ImportError(f"this needs transformers: {install('transformers')}") from error
import torch

from wdpurify import PurifyRegularizer
from wdpurify.exceptions import ResumeWarning
from wdpurify.pull import add_term

from ._files import save_whole

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from wdpurify._options import PurifyOptions
    from wdpurify._sampler import Sampler

#: Name of the state file in a checkpoint folder.
STATE_FILE = "purify.pt"


class _Keeper(TrainerCallback):
    """Saves the regularizer with each checkpoint and loads it at the start of a resumed run."""

    def __init__(self, purify: PurifyRegularizer) -> None:
        self.purify = purify
        self.resumed_from: Path | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.resumed_from is None:
            return
        file = self.resumed_from / STATE_FILE
        if file.exists():
            self.purify.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
        else:
            message = f"{file} does not exist, so the regularizer starts afresh. Check the folder"
            warnings.warn(message, ResumeWarning, stacklevel=2)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        mine = self.purify.state_dict(all_ranks=True)
        if state.is_world_process_zero:
            save_whole(mine, Path(args.output_dir, f"checkpoint-{state.global_step}", STATE_FILE))


def purify_trainer(
    trainer: Trainer, sampler: "Sampler", *, layer: str | None = None, **options: "Unpack[PurifyOptions]"
) -> PurifyRegularizer:
    """Add the purify term to a trainer's training loss, its state to the checkpoints and its metrics to the log.

    The trainer's ``compute_loss`` adds the term outside the model and outside compiled code, with the same divisor as the
    loss, so its strength does not depend on the number of accumulated micro-batches.

    Args:
        trainer: a trainer or an instance of any subclass, before ``train()``.
        sampler: draws auxiliary batches; for models with keyword inputs, rows of dicts such as ``{"pixel_values": ...}``.
        layer: name of the layer of the model whose input is the features; None selects the classifier.
        **options: options of :class:`wdpurify.PurifyRegularizer`.

    Returns:
        The regularizer.

    Raises:
        ValueError: for a trainer without a model, with ``model_init`` (its ``train()`` makes another model), or with a
            regularizer.
    """
    if getattr(trainer, "model", None) is None or getattr(trainer, "model_init", None) is not None:
        raise ValueError(
            "`trainer` makes its model in `train()`, which the term would not reach. Give the Trainer `model=` in place of "
            "`model_init=`"
        )
    if any(isinstance(callback, _Keeper) for callback in trainer.callback_handler.callbacks):
        raise ValueError(
            "`trainer` already has a regularizer, and the pulls of two would add up. Make another Trainer for another one"
        )
    purify = PurifyRegularizer.for_model(trainer.model, sampler, layer=layer, **options)
    keeper = _Keeper(purify)
    trainer.add_callback(keeper)
    compute = trainer.compute_loss
    train = trainer.train
    log = trainer.log

    @functools.wraps(compute)
    def compute_loss(model: Any, *arguments: Any, **named: Any) -> Any:
        result = compute(model, *arguments, **named)
        if not (model.training and torch.is_grad_enabled()):
            return result
        # The trainer does not divide a loss that is already normalised over the accumulated batch, so this divides the term.
        divisor = _steps(trainer) if _is_normalised(trainer, named.get("num_items_in_batch")) else 1
        term = purify.loss() / divisor
        return (add_term(result[0], term), *result[1:]) if isinstance(result, tuple) else add_term(result, term)

    @functools.wraps(train)
    def training(resume_from_checkpoint: Any = None, *arguments: Any, **named: Any) -> Any:
        folder = get_last_checkpoint(trainer.args.output_dir) if resume_from_checkpoint is True else resume_from_checkpoint
        keeper.resumed_from = Path(folder) if folder else None
        return train(resume_from_checkpoint, *arguments, **named)

    @functools.wraps(log)
    def logging(logs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        if "loss" in logs:
            logs = logs | purify.metrics().as_dict("purify_")
        return log(logs, *arguments, **named)

    trainer.compute_loss = compute_loss
    trainer.train = training
    trainer.log = logging
    return purify


def _steps(trainer: Trainer) -> int:
    return int(getattr(trainer, "current_gradient_accumulation_steps", trainer.args.gradient_accumulation_steps))


def _is_normalised(trainer: Trainer, num_items_in_batch: Any) -> bool:
    declared = getattr(trainer, "loss_is_scaled_for_ga", None)
    if declared is not None:
        return bool(declared)
    by_model = bool(getattr(trainer, "model_accepts_loss_kwargs", False)) and num_items_in_batch is not None
    return by_model or getattr(trainer, "compute_loss_func", None) is not None
