"""AuxiliaryForward: runs the extractor on auxiliary rows without side effects on model, random state and autocast cache."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify._sampler import GroupBatch, Sampler
from wdpurify._torch import (
    AutocastState,
    current_autocast,
    derive_seed,
    generators_in,
    leaves_of,
    map_leaves,
    plain,
    private_randomness,
    replay_autocast,
    to_device,
    unwrap,
)
from wdpurify.exceptions import AuxiliaryDataWarning

from .inputs import attention_mask_of, call_with, takes_several
from .isolation import Isolation, Result, run_isolated
from .pooling import Pool, pool_features
from .refusals import refuse_gradients_per_sample
from .tap import FeatureTap


class AuxiliaryForward:
    """Runs the extractor on auxiliary rows like a training forward, without side effects.

    Args:
        extract: maps inputs to features.
        model: the module to isolate; its device and dtype are those of the inputs.
        update_statistics: let the forward update running statistics like a training forward.
        seed: seed of dropout and other random layers.

    Attributes:
        tap: the extractor, if it is a tap.
        channels_first: the axis of channels in the tapped layer's input, see :func:`pool_features`; None if unknown.
        replayed: the autocast setting of the last training forward.
        inputs_need_grad: whether features have a gradient only if the inputs have one, as under reentrant checkpoints.
    """

    def __init__(self, extract: Callable[..., Any], model: nn.Module, *, update_statistics: bool, seed: int) -> None:
        self._extract = unwrap(extract) if isinstance(extract, nn.Module) else extract
        self.tap = extract if isinstance(extract, FeatureTap) else None
        self.model = unwrap(model)
        refuse_gradients_per_sample(self.model)
        self._update_statistics = update_statistics
        self._seed = seed
        self.replayed: AutocastState | None = None
        self.inputs_need_grad = False
        self.channels_first = None if self.tap is None else self.tap.channels_first
        self._reached = True
        self._is_checked = False
        self._generators: Sequence[Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the autocast setting to replay, as strings, and whether inputs need a gradient."""
        replayed = self.replayed
        autocast = None if replayed is None else [replayed.device_type, str(replayed.dtype).removeprefix("torch.")]
        return {"autocast": autocast, "inputs_need_grad": self.inputs_need_grad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved setting."""
        saved = state["autocast"]
        self.inputs_need_grad = bool(state["inputs_need_grad"])
        self.replayed = None if saved is None else AutocastState(saved[0], getattr(torch, saved[1]))

    def place(self) -> tuple[torch.device, torch.dtype]:
        """Return device and dtype of the first parameter of 16 bits or more; CPU and float32 without parameters."""
        for parameter in self.model.parameters():
            if parameter.is_floating_point() and parameter.dtype.itemsize > 1:
                return parameter.device, parameter.dtype
        return torch.device("cpu"), torch.float32

    def autocast(self) -> AutocastState | None:
        """Return the autocast setting for auxiliary forwards: the present one, or that of the last training forward."""
        return current_autocast(self.place()[0].type) or self.replayed

    def to_model(self, inputs: Any) -> Any:
        """Move all tensors of a batch to the model's device, floating ones in its dtype (float32 under autocast).

        Mappings become dicts. Other objects with a ``to()`` method, such as a packed sequence, keep their dtype.
        """
        device, dtype = self.place()
        wanted = torch.float32 if self.autocast() else dtype

        def move(leaf: Any) -> Any:
            if isinstance(leaf, Tensor):
                return to_device(plain(leaf), device, wanted if leaf.is_floating_point() else None)
            return leaf.to(device) if hasattr(leaf, "to") else leaf

        return map_leaves(move, inputs)

    def attention_mask(self, inputs: Any) -> Tensor | None:
        """Return the attention mask of a batch, or None."""
        return attention_mask_of(self._extract, inputs)

    def warn_of_left_out(self, sampler: Sampler) -> None:
        """Warn if rows have more tensors that the extractor could take by position."""
        inputs = 1 + getattr(sampler, "left_out", 0)
        if inputs > 1 and takes_several(self._extract, inputs):
            warnings.warn(
                f"the auxiliary set has rows of {inputs} tensors that are not the labels, and the model gets the first alone. "
                "Give `collate_fn=torch.utils.data.default_collate` to pass every tensor by position, or a `TensorDataset` of "
                "one tensor",
                AuxiliaryDataWarning,
                stacklevel=4,
            )

    def run_isolated(self, work: Callable[[Isolation], Result], *, with_grad: bool, watch: bool = False) -> Result:
        """Call ``work`` while the model is isolated, and return its result."""
        return run_isolated(self.model, work, update_buffers=self._update_statistics, with_grad=with_grad, watch=watch)

    def __call__(self, inputs: Any, *, step: int, with_grad: bool) -> Any:
        """Compute the features of inputs from :meth:`to_model`; records a graph only if ``with_grad``."""
        seed = derive_seed(self._seed, "auxiliary forward", step)
        randomness = private_randomness(self.place()[0], seed, self._generators or ())
        if with_grad and self.inputs_need_grad:
            inputs = map_leaves(_with_grad, inputs)
        with torch.set_grad_enabled(with_grad), replay_autocast(self.autocast()), randomness:
            try:
                features = plain(call_with(self._extract, inputs))
                self._reached = not with_grad or getattr(features, "requires_grad", False)
                return features
            except Exception as error:
                if hasattr(error, "add_note"):  # Python 3.11
                    if any(isinstance(leaf, str) for leaf in leaves_of(inputs)):
                        error.add_note("wdpurify: the auxiliary rows are texts: give your tokenizer as `collate_fn=`.")
                    error.add_note(
                        "This was wdpurify's forward of auxiliary rows: they must be prepared like the task's rows; rows "
                        "that are dicts are given by keyword, of tuples the first member unless `collate_fn` says otherwise; "
                        "and a model that takes more than one input is tapped further in, "
                        '`PurifyRegularizer.for_model(model.encoder, sampler, layer="...")`'
                    )
                raise

    def draw(self, sampler: Sampler, *, step: int) -> GroupBatch:
        """Draw the sampler's next batch; the randomness of its data set and transform is isolated too."""
        if step in (-1, 0) or self._generators is None:
            parts = list(getattr(sampler, "__dict__", {}).values())
            generators = generators_in(self.model, self._extract, *parts)
            # A generator in the sampler itself determines its order.
            self._generators = [each for each in generators if not any(each is part for part in parts)]
        with private_randomness(torch.device("cpu"), derive_seed(self._seed, "auxiliary rows", step), self._generators):
            return sampler.next_batch()

    def width(self, sampler: Sampler, *, pool: Pool) -> int:
        """Measure the width of the features by a forward of two auxiliary rows, without a change to sampler and model."""
        position = sampler.state_dict()
        batch = self.draw(sampler, step=-1)
        inputs = self.to_model(batch.images)
        sampler.load_state_dict(position)
        few = self._first_rows(inputs, 2, len(batch.groups))
        inputs = inputs if few is None else few
        features = self._without_a_trace(inputs)
        return int(pool_features(features, None, pool=pool, channels_first=self.channels_first).shape[1])

    def check_first_axis(self, inputs: Any, features: Tensor, samples: int, *, pool: Pool) -> None:
        """Check in the first step that the first axis of the features is the batch, by a forward of half the batch.

        Args:
            inputs: inputs of the batch, from :meth:`to_model`.
            features: features of these inputs, before pooling.
            samples: number of rows of the batch.
            pool: how features become one row per sample.

        Raises:
            ValueError: if half of the inputs do not give half of the rows.
        """
        half = samples // 2
        if not self._is_checked and half > 1 and features.ndim > 2 and features.shape[0] == features.shape[1] == samples:
            few = self._first_rows(inputs, half, samples)
            if few is not None:
                reached = self._reached
                few_features = self._without_a_trace(few)
                self._reached = reached
                pool_features(few_features, None, pool=pool, channels_first=self.channels_first or False, samples=half)
        self._is_checked = True

    def _without_a_trace(self, inputs: Any) -> Any:
        """Compute features for a check: without a graph, and without an update of running statistics."""
        work: Callable[[Isolation], Any] = lambda _: self(inputs, step=-1, with_grad=False)  # noqa: E731
        return run_isolated(self.model, work, update_buffers=False, with_grad=False)

    def _first_rows(self, inputs: Any, count: int, samples: int) -> Any:
        """Return the first rows of a batch; None if a leaf does not have one entry per sample."""
        leaves = leaves_of(inputs)
        whole = all(isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == samples for leaf in leaves)
        return map_leaves(lambda leaf: leaf[:count], inputs) if whole else None

    def remember(self, features: Tensor) -> None:
        """Remember the autocast setting of these task features, and whether their inputs need a gradient."""
        if features.requires_grad and not self._reached:
            self.inputs_need_grad = any(parameter.requires_grad for parameter in self.model.parameters())
        half = features.dtype in (torch.float16, torch.bfloat16) and self.place()[1] == torch.float32
        made = AutocastState(features.device.type, features.dtype) if half else None
        self.replayed = made or current_autocast(features.device.type)


def _with_grad(inputs: Any) -> Any:
    return inputs.detach().requires_grad_() if isinstance(inputs, Tensor) and inputs.is_floating_point() else inputs
