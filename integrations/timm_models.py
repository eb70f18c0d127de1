"""timm: adds the purify term to the loss of any timm training task, for timm's ``train.py`` and similar loops.

Older timm has no tasks: wrap the criterion instead, ``PurifyRegularizer.for_model(model, sampler).criterion(criterion)``.
"""

import warnings
from typing import TYPE_CHECKING, Any

from ._extras import install

try:
    from timm.task import TrainingTask

    TrainingTask.get_trainable_module  # noqa: B018 - the first versions of tasks lack it
except (ImportError, AttributeError) as error:
    raise ImportError(
        f"this needs the training tasks of timm 1.0.27 or later: {install('timm')}, with `--upgrade`. With an older timm "
        "wrap the criterion: `PurifyRegularizer.for_model(model, sampler).criterion(criterion)`"
    ) from error
from torch import Tensor, nn

from wdpurify import PurifyRegularizer
from wdpurify.exceptions import ResumeWarning
from wdpurify.pull import add_term

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from wdpurify._options import PurifyOptions
    from wdpurify._sampler import Sampler

#: Key of the regularizer's state in the task state.
STATE = "purify"


class PurifyTask(TrainingTask):
    """A training task that adds the purify term to the loss of another task: ``task = PurifyTask(task, sampler)``.

    It forwards compilation, DDP, EMA, gradient clipping, evaluation and checkpoints to the inner task; features and logits
    come from one forward pass. A checkpoint holds the regularizer's state in the task's state, outside the model's state. Wrap
    the task right after its construction: before ``compile()`` and before you resume a checkpoint.

    Args:
        task: any timm task: classification, multi-label, distillation.
        sampler: draws auxiliary batches, preprocessed (resized, normalised) like the task's images.
        layer: name of the layer of the trainable module whose input is the features; None selects the classifier, whose
            input equals ``forward_head(..., pre_logits=True)``.
        **options: options of :class:`wdpurify.PurifyRegularizer`.

    Attributes:
        task: the inner task.
        purify: the regularizer.
    """

    def __init__(
        self, task: TrainingTask, sampler: "Sampler", *, layer: str | None = None, **options: "Unpack[PurifyOptions]"
    ) -> None:
        super().__init__(device=task.device, dtype=task.dtype, verbose=task.verbose)
        self.task = task
        model = task.get_trainable_module()
        if model is None:
            raise ValueError(f"`task` must have a trainable module, got a {type(task).__name__} without one")
        self.purify = PurifyRegularizer.for_model(model, sampler, layer=layer, **options)

    def forward(self, input: Any, target: Any) -> dict[str, Tensor]:
        """Return the task's result with the term added to ``loss``, and the detached term as ``purify``."""
        result = dict(self.task(input, target))
        term = self.purify.loss()
        result["loss"] = add_term(result["loss"], term)
        result[STATE] = term.detach()
        return result

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """Return the task's state, plus the regularizer's state for the trained model (not for the EMA)."""
        state = self.task.get_task_state(module=module, ema=ema)
        return state if ema else {**state, STATE: self.purify.state_dict()}

    def load_task_state(
        self, state: dict[str, Any] | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        """Continue from a saved state; without a regularizer's state in it, the regularizer starts afresh with a warning."""
        state = dict(state or {})
        mine = state.pop(STATE, None)
        if mine is not None and not ema:
            self.purify.load_state_dict(mine)
        elif not ema:
            message = "the checkpoint has no regularizer state, so the regularizer starts afresh. Check its path"
            warnings.warn(message, ResumeWarning, stacklevel=2)
        self.task.load_task_state(state or None, strict=strict, module=module, ema=ema)

    def prepare_distributed(self, device_ids: list[Any] | None = None, **ddp_kwargs: Any) -> "PurifyTask":
        self.task.prepare_distributed(device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any) -> Any:
        return self.task.compile(backend=backend, mode=mode, **compile_kwargs)

    def get_trainable_module(self, ema: bool = False) -> nn.Module | None:
        return self.task.get_trainable_module(ema=ema)

    def setup_ema(self, *arguments: Any, **named: Any) -> nn.Module:
        return self.task.setup_ema(*arguments, **named)

    def compile_ema(self, *arguments: Any, **named: Any) -> Any:
        return self.task.compile_ema(*arguments, **named)

    def update_ema(self, step: int | None = None) -> None:
        self.task.update_ema(step=step)

    def get_clip_parameters(self, exclude_head: bool = False) -> Any:
        return self.task.get_clip_parameters(exclude_head=exclude_head)

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        return self.task.get_eval_model(module=module, ema=ema)

    def no_sync(self) -> Any:
        return self.task.no_sync()

    def create_evaluator(self, **named: Any) -> Any:
        return self.task.create_evaluator(**named)
