"""The feature tap: catches what a layer of the user's model reads, for loops that never see features."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ._auxiliary import auxiliary_running, unwrap
from ._classifier import find_classifier, input_width
from ._injection import BackwardRecord, measured


class _InertHook:
    """What copies of a tapped model carry in place of the hook: does nothing, and pickles without this library."""

    def __call__(self, module: nn.Module, arguments: Any, named: Any) -> Any:
        return None

    def __reduce__(self) -> Any:
        # A method of the standard library that takes three arguments and does nothing.
        return getattr, (nullcontext(), "__exit__")


def _in_backward() -> bool:
    """Whether a backward pass is under way: gradient checkpointing runs the forward once more there."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class _CaptureHook(_InertHook):
    def __init__(self) -> None:
        self.features: Tensor | None = None
        self.auxiliary: Any = None
        self.in_auxiliary = False
        self.probe = torch.zeros((), requires_grad=True)

    def __call__(self, module: nn.Module, arguments: Any, named: Any) -> Any:
        # Under export the module is "compiling" without Dynamo; under torch.compile this very code is in the graph.
        exporting = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
        if exporting or torch.jit.is_tracing() or not (arguments or named):  # type: ignore[attr-defined]
            return None
        keyword = None if arguments else next(iter(named))
        features = arguments[0] if keyword is None else named[keyword]
        if self.in_auxiliary:
            self.auxiliary = features
        elif auxiliary_running() or _in_backward():
            return None
        elif module.training and torch.is_grad_enabled():
            self.features = features
            if not isinstance(features, Tensor):  # refused by name where the features are used
                return None
            seen = measured(features, self.probe)
            return ((seen, *arguments[1:]), named) if keyword is None else (arguments, {**named, keyword: seen})
        return None

    def __deepcopy__(self, memo: Any) -> _InertHook:
        return _InertHook()


def _last_of(layers: Mapping[str, nn.Module], count: int = 20) -> str:
    return ", ".join([name for name, layer in layers.items() if layer._parameters][-count:]) or "none with weights"


class FeatureTap:
    """Reads the input of one layer of a model: task features on training forwards, auxiliary features on demand.

    Evaluation passes (``eval()`` or grad mode off) are ignored. Copies of the model carry no tap, its ``state_dict()`` does
    not change, and :meth:`remove` takes the hook away. Put it on before the first call of a compiled model.

    Args:
        model: the user's model; wrappers (DDP, ``torch.compile``) are looked through.
        layer: name of a layer as in ``named_modules()``; its first argument is the features. None finds the classifier: what
            the model's ``get_classifier()`` returns, a child called ``classifier`` or ``head``, or the last ``nn.Linear``.

    Raises:
        ValueError: if there is no such layer, or none that looks like a classifier.
        TypeError: for a scripted model, which takes no Python hooks.
    """

    def __init__(self, model: nn.Module, layer: str | None = None) -> None:
        self.model = unwrap(model)
        if isinstance(self.model, torch.jit.ScriptModule):
            raise TypeError("`model` is a TorchScript module, which takes no Python hooks: tap it before torch.jit.script")
        layers = dict(self.model.named_modules())
        if layer is None:
            layer = find_classifier(self.model)
        if layer is None:
            raise ValueError(
                "`model` needs a classifier to tap and has no nn.Linear, no closing 1x1 convolution and no `get_classifier()`: "
                f"name the layer that reads the features with `layer=...`; its last ones are {_last_of(layers)}"
            )
        if layer not in layers:
            raise ValueError(f"`layer` must be one of the model's layers, got {layer!r}; the last are {_last_of(layers)}")
        self.layer = layer
        self.feature_dim: int | None = input_width(layers[layer])
        self._hook = _CaptureHook()
        self._handle = layers[layer].register_forward_pre_hook(self._hook, with_kwargs=True)
        self._record: BackwardRecord | None = None
        self._listen_at(torch.device("cpu"))

    def take(self) -> Tensor | None:
        """The features of the last training forward, handed out once; None if there was none since."""
        features, self._hook.features = self._hook.features, None
        return features

    def report_to(self, record: BackwardRecord, device: torch.device) -> None:
        """Let ``record`` hear of the gradient that comes back to the features just taken, which are on ``device``."""
        self._record = record
        if self._hook.probe.device != device:  # from the next forward on; the first one copies one number to the host
            self._listen_at(device)

    def _listen_at(self, device: torch.device) -> None:
        def heard(norm: Tensor) -> None:
            record, self._record = self._record, None
            if record is not None:
                record.scaled_norm(norm.detach())

        def forget(probe: Tensor) -> None:
            probe.grad = None

        self._hook.probe = torch.zeros((), device=device, requires_grad=True)
        self._hook.probe.register_hook(heard)
        self._hook.probe.register_post_accumulate_grad_hook(forget)

    def __call__(self, *images: Any, **named: Any) -> Any:
        """Features of auxiliary images, by a forward of the unwrapped model that leaves the task features in place.

        Raises:
            ValueError: if the forward never calls the tapped layer.
        """
        self._hook.in_auxiliary = True
        try:
            self.model(*images, **named)
            if self._hook.auxiliary is None:
                raise ValueError(
                    f"`layer` must be a layer that forward passes of the model call, got {self.layer!r}, which was not called: "
                    "name the layer that reads the features with `layer=...`"
                )
            return self._hook.auxiliary
        finally:
            self._hook.in_auxiliary, self._hook.auxiliary = False, None

    def remove(self) -> None:
        """Take the hook off the model."""
        self._handle.remove()
        self._hook.features = None
