"""FeatureTap: captures the input of a layer with a forward hook, for loops that do not expose the features."""

import copy
import warnings
import weakref
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify._checks import check_object
from wdpurify._torch import in_backward, in_functional_transform, refuse_some_of_the_ranks, unwrap
from wdpurify.exceptions import PullNotAppliedWarning
from wdpurify.pull import Forward, Pass, Probe, measure_gradient

from .branches import other_heads
from .classifier import candidates, find_classifier, input_width, reads_channels_first
from .pooling import check_features


class _InertHook:
    """Replaces the hook in copies of a tapped model: does nothing, and unpickles without this library."""

    def __call__(self, module: nn.Module, arguments: Any, named: Any) -> Any:
        return None

    def __reduce__(self) -> Any:
        # A method of the standard library that takes three arguments and does nothing.
        return getattr, (nullcontext(), "__exit__")


class _CaptureHook(_InertHook):
    """Captures the layer's input in training forwards.

    Attributes:
        caught: the pass of the captured forwards, until its term is asked for; None before its first forward.
        unseen: features of a compiled graph's last training forward, until :meth:`FeatureTap.current` makes a pass of them.
        evaluated: whether the layer ran outside training forwards since the last query.
        passed_by: whether features with a gradient came from evaluation mode, or a loss had no term.
        probe: measures the gradient at the features in a compiled graph.
        added: the pass that this call of the layer was added to; None otherwise.
    """

    def __init__(self, feature_dim: int | None) -> None:
        self.caught: Pass | None = None
        self.unseen: Any = None
        self.evaluated = False
        self.passed_by = False
        self.probe = Probe(feature_dim, torch.device("cpu"))
        self.added: Pass | None = None

    def __call__(self, module: nn.Module, arguments: Any, named: Any) -> Any:
        # Under export the module is "compiling" without Dynamo; under torch.compile this very code is in the graph.
        compiled = torch.compiler.is_dynamo_compiling()
        if (torch.compiler.is_compiling() and not compiled) or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return None
        if not (arguments or named):
            return None
        if not compiled and (in_functional_transform() or in_backward()):
            return None
        keyword = None if arguments else next(iter(named))
        features = arguments[0] if keyword is None else named[keyword]
        if not (module.training and torch.is_grad_enabled()):
            self.evaluated = True
            if torch.is_grad_enabled() and getattr(features, "requires_grad", False):
                self.passed_by = True
            return None
        if not compiled:
            self._catch(module, features)
            return None
        self.unseen = features
        if not isinstance(features, Tensor):  # `FeatureTap.current` refuses it
            return None
        seen = measure_gradient(features, self.probe)
        return ((seen, *arguments[1:]), named) if keyword is None else (arguments, {**named, keyword: seen})

    def _catch(self, module: nn.Module, features: Any) -> None:
        if self.caught is not None and self.caught.was_through:  # a loss had no term
            self.passed_by = True
            if self.caught.closed:
                self.caught = None
        if self.caught is None:
            self.caught = Pass()
        if isinstance(features, Tensor):
            with torch._C.DisableTorchFunctionSubclass():  # makes plain tensors
                self.caught.add(features)
            self.added = self.caught
        else:
            self.unseen = features
        self.caught.weight = _first_weight(module)

    def __deepcopy__(self, memo: Any) -> _InertHook:
        return _InertHook()


class _KeepingHook(_InertHook):
    """Keeps captured features alive as long as the graph of the layer's output."""

    def __init__(self, capture: _CaptureHook) -> None:
        self._capture = capture

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> None:
        added, self._capture.added = self._capture.added, None
        if added is not None and isinstance(output, Tensor):
            added.keep_with(output)


class _CollectingHook:
    """Collects the layer's input in one auxiliary forward: that of the last call with a graph, or else of the last call."""

    def __init__(self) -> None:
        self.features: Any = None

    def __call__(self, module: nn.Module, arguments: Any, named: Any) -> None:
        features = arguments[0] if arguments else next(iter(named.values()))
        if torch.is_grad_enabled() or not getattr(self.features, "requires_grad", False):
            self.features = features


class FeatureTap:
    """Reads the input of one layer of a model: task features on training forwards, auxiliary features on demand.

    The tap ignores evaluation passes (``eval()`` or grad mode off). Copies of the model have no tap, and its ``state_dict()``
    does not change. :meth:`remove` removes the hook, and so does the garbage collection of the tap. Make the tap before the
    first call of a compiled model.

    Args:
        model: the user's model, also behind wrappers (DDP, ``torch.compile``).
        layer: name of a layer as in ``named_modules()``; its first argument is the features. None finds the classifier: what
            the model's ``get_classifier()`` returns, a child called ``classifier`` or ``head``, or the last ``nn.Linear``.

    Raises:
        ValueError: if there is no such layer, or none that looks like a classifier.
        TypeError: for a scripted model, which takes no Python hooks.
    """

    def __init__(self, model: nn.Module, layer: str | None = None) -> None:
        check_object("model", model, ("named_modules", "parameters"), "Give a `torch.nn.Module` first, and then the sampler")
        refuse_some_of_the_ranks(model)
        self.model = unwrap(model)
        if isinstance(self.model, torch.jit.ScriptModule):
            raise TypeError("`model` is a TorchScript module, which takes no Python hooks: tap it before torch.jit.script")
        layers = dict(self.model.named_modules())
        if layer is None:
            layer = find_classifier(self.model)
            if layer is not None and (others := other_heads(self.model, layer)):
                warnings.warn(
                    f"Several layers may be the classifier: {layer!r} is taken, and {', '.join(map(repr, others))} read the "
                    "same features. Name the one that predicts your task with `layer=...`",
                    PullNotAppliedWarning,
                    stacklevel=3,
                )
        if layer is None:
            raise ValueError(
                "`model` needs a classifier to tap and has no nn.Linear, no closing 1x1 convolution and no `get_classifier()`: "
                f"name the layer that reads the features with `layer=...`; {candidates(self.model)}"
            )
        if layer not in layers:
            named = next((name for name, module in layers.items() if module is layer), None)
            remedy = candidates(self.model) if named is None else f"give its name, `layer={named!r}`"
            given = type(layer).__name__ if isinstance(layer, nn.Module) else repr(layer)
            raise ValueError(f"`layer` must be the name of one of the model's layers, got {given}; {remedy}")
        self.layer = layer
        self._module = layers[layer]
        self.feature_dim: int | None = input_width(self._module)
        self.channels_first = reads_channels_first(self._module)
        self._hook = _CaptureHook(self.feature_dim)
        self._asked: list[Pass] = []
        handles = (
            self._module.register_forward_pre_hook(self._hook, with_kwargs=True),
            self._module.register_forward_hook(_KeepingHook(self._hook)),
        )
        self._finalizer = weakref.finalize(self, lambda: [handle.remove() for handle in handles])
        self._finalizer.atexit = False

    @property
    def module(self) -> nn.Module:
        """The tapped layer."""
        module: nn.Module = self._module
        return module

    def current(self) -> Pass | None:
        """Return the newest open pass: the training forwards since the last term, or those of the last term.

        Raises:
            TypeError: if the layer's input is not a tensor.
        """
        return next(iter(self._open_passes()), None)

    def behind(self, loss: Tensor | None) -> tuple[Pass, list[Forward]] | None:
        """Return the newest open pass that a loss depends on, and its forwards behind the loss; a loss of None has all of them.

        Raises:
            TypeError: if the layer's input is not a tensor.
        """
        for current in self._open_passes():
            forwards = current.forwards if loss is None else current.forwards_behind(loss)
            if forwards:
                if current is self._hook.caught:  # the next forward begins another pass
                    for earlier in self._asked:
                        earlier.let_go()
                    self._asked.append(current)
                    self._let_go()
                return current, forwards
        return None

    def _open_passes(self) -> list[Pass]:
        hook = self._hook
        if hook.unseen is not None:
            check_features(hook.unseen, None)
            hook.caught = Pass()
            hook.caught.probe = hook.probe
            hook.caught.add(hook.unseen)
            hook.unseen = None
        self._asked = [each for each in self._asked if not each.closed and each.forwards]
        caught = [] if hook.caught is None else [hook.caught]
        return [each for each in caught + self._asked[::-1] if not each.closed]

    def was_evaluated(self) -> bool:
        """Whether the layer ran outside training forwards since the last call."""
        evaluated = self._hook.evaluated
        self._hook.evaluated = False
        return evaluated

    def was_passed_by(self) -> bool:
        """Whether the layer may have had a backward pass without a term since the last release."""
        hook = self._hook
        return hook.passed_by or hook.unseen is not None or (hook.caught is not None and hook.caught.was_through)

    def was_swapped(self, current: Pass) -> bool:
        """Whether the layer ran with a parameter that is not its own in this pass; sharding may exchange parameters."""
        weight = _first_weight(self._module)
        own = None if weight is None else weight()
        return current.weight is not None and type(own) is nn.Parameter and current.weight() is not own

    def place_probe(self, device: torch.device) -> None:
        """Move the probe of compiled graphs to ``device``, from their next forward on."""
        self._hook.probe = self._hook.probe.to(device)

    def release(self) -> None:
        """Release the captured features."""
        self._asked = []
        self._let_go()

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Return the layer's input in a forward of the unwrapped model on other inputs; captured task features do not change.

        Raises:
            ValueError: if the forward does not call the tapped layer.
        """
        hooks = self._module._forward_pre_hooks
        ours = [(key, hooks.pop(key)) for key, hook in list(hooks.items()) if hook is self._hook]
        collecting = _CollectingHook()
        handle = self._module.register_forward_pre_hook(collecting, with_kwargs=True)
        try:
            self.model(*inputs, **named)
        finally:
            handle.remove()
            hooks.update(ours)
        if collecting.features is None:
            raise ValueError(
                f"`layer` must be a layer that forward passes of the model call, got {self.layer!r}, which was not called: "
                f"name the layer that reads the features with `layer=...`; {candidates(self.model)}"
            )
        return collecting.features

    def remove(self) -> None:
        """Remove the hook from the model."""
        self._finalizer()
        self.release()

    def __deepcopy__(self, memo: dict[int, Any]) -> "FeatureTap":
        model = copy.deepcopy(self.model, memo)
        if not hasattr(model, "_modules"):  # the copy of the model is incomplete, because the model contains this tap
            raise TypeError(
                "`model` holds its own regularizer, so a copy of it would be made with another: keep the regularizer in a "
                "variable outside the model"
            )
        return FeatureTap(model, self.layer)

    def __repr__(self) -> str:
        return f"FeatureTap({type(self.model).__name__}, layer={self.layer!r})"

    def _let_go(self) -> None:
        self._hook.caught = None
        self._hook.unseen = None
        self._hook.passed_by = False


def _first_weight(module: nn.Module) -> "weakref.ref[Tensor] | None":
    weight = next((parameter for parameter in module._parameters.values() if parameter is not None), None)
    return None if weight is None else weakref.ref(weight)
