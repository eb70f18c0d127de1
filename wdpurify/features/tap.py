"""FeatureTap: catches features that the user's loop never sees, by a forward hook on the layer that reads them."""

import copy
import warnings
import weakref
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify._torch import in_backward, in_functional_transform, refuse_some_of_the_ranks, unwrap
from wdpurify.exceptions import PullNotAppliedWarning
from wdpurify.pull import Pass, Probe, measured

from .branches import other_heads
from .classifier import candidates, find_classifier, input_width, reads_channels_first
from .pooling import check_features


class _InertHook:
    """What copies of a tapped model carry in place of the hook: does nothing, and pickles without this library."""

    def __call__(self, module: nn.Module, arguments: Any, named: Any) -> Any:
        return None

    def __reduce__(self) -> Any:
        # A method of the standard library that takes three arguments and does nothing.
        return getattr, (nullcontext(), "__exit__")


class _CaptureHook(_InertHook):
    """Catches what the layer reads in training forwards.

    Attributes:
        caught: the pass that they make until its term is asked for; None before its first forward.
        unseen: features of a compiled graph's last training forward, until :meth:`FeatureTap.current` makes a pass of them.
        evaluated: whether the layer has run in another way than in a training forward since this was last asked.
        passed_by: whether it has run like that with features that carry a gradient, or for a loss that carries no term.
        probe: measures the gradient at the features in a compiled graph.
    """

    def __init__(self, feature_dim: int | None) -> None:
        self.caught: Pass | None = None
        self.unseen: Any = None
        self.evaluated = False
        self.passed_by = False
        self.probe = Probe(feature_dim, torch.device("cpu"))

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
        if not isinstance(features, Tensor):  # refused where the features are used
            return None
        seen = measured(features, self.probe)
        return ((seen, *arguments[1:]), named) if keyword is None else (arguments, {**named, keyword: seen})

    def _catch(self, module: nn.Module, features: Any) -> None:
        if self.caught is not None and self.caught.closed:  # nobody asked for its term: another pass begins
            self.passed_by = True
            self.caught = None
        if self.caught is None:
            self.caught = Pass()
        if isinstance(features, Tensor):
            with torch._C.DisableTorchFunctionSubclass():  # what is measured of them are plain tensors
                self.caught.add(features)
        else:
            self.unseen = features
        self.caught.weight = _first_weight(module)

    def __deepcopy__(self, memo: Any) -> _InertHook:
        return _InertHook()


class _CollectingHook:
    """Keeps what the layer reads in one auxiliary forward: in its last call with a graph, or in its last call."""

    def __init__(self) -> None:
        self.features: Any = None

    def __call__(self, module: nn.Module, arguments: Any, named: Any) -> None:
        features = arguments[0] if arguments else next(iter(named.values()))
        if torch.is_grad_enabled() or not getattr(self.features, "requires_grad", False):
            self.features = features


class FeatureTap:
    """Reads the input of one layer of a model: task features on training forwards, auxiliary features on demand.

    Evaluation passes (``eval()`` or grad mode off) are ignored. Copies of the model carry no tap, its ``state_dict()`` does
    not change, and :meth:`remove` takes the hook away, as does the end of the tap itself. Put it on before the first call of a
    compiled model.

    Args:
        model: the user's model; wrappers (DDP, ``torch.compile``) are looked through.
        layer: name of a layer as in ``named_modules()``; its first argument is the features. None finds the classifier: what
            the model's ``get_classifier()`` returns, a child called ``classifier`` or ``head``, or the last ``nn.Linear``.

    Raises:
        ValueError: if there is no such layer, or none that looks like a classifier.
        TypeError: for a scripted model, which takes no Python hooks.
    """

    def __init__(self, model: nn.Module, layer: str | None = None) -> None:
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
            raise ValueError(f"`layer` must be one of the model's layers, got {layer!r}; {candidates(self.model)}")
        self.layer = layer
        self._module = layers[layer]
        self.feature_dim: int | None = input_width(self._module)
        self.channels_first = reads_channels_first(self._module)
        self._hook = _CaptureHook(self.feature_dim)
        self._asked: Pass | None = None
        handle = self._module.register_forward_pre_hook(self._hook, with_kwargs=True)
        self._finalizer = weakref.finalize(self, handle.remove)
        self._finalizer.atexit = False

    @property
    def module(self) -> nn.Module:
        """The tapped layer."""
        module: nn.Module = self._module
        return module

    def current(self) -> Pass | None:
        """The pass under way: the training forwards since a term was last asked for, or these until their backward is through.

        Raises:
            TypeError: if what the layer read is no tensor.
        """
        hook = self._hook
        if hook.unseen is not None:
            check_features(hook.unseen, None)
            hook.caught = Pass()
            hook.caught.probe = hook.probe
            hook.caught.add(hook.unseen)
        if hook.caught is not None:
            self._asked = hook.caught
            self._let_go()
        if self._asked is not None and self._asked.closed:
            self._asked = None
        return self._asked

    def was_evaluated(self) -> bool:
        """Whether the layer has run outside training forwards since this was last asked."""
        evaluated = self._hook.evaluated
        self._hook.evaluated = False
        return evaluated

    def was_passed_by(self) -> bool:
        """Whether a backward pass that no term was asked for may have gone through the layer since the features were let go."""
        hook = self._hook
        return hook.passed_by or hook.unseen is not None or (hook.caught is not None and hook.caught.closed)

    def was_swapped(self, current: Pass) -> bool:
        """Whether the layer ran in this pass with a parameter that is not its own; sharded ones are exchanged by right."""
        weight = _first_weight(self._module)
        own = None if weight is None else weight()
        return current.weight is not None and type(own) is nn.Parameter and current.weight() is not own

    def place_probe(self, device: torch.device) -> None:
        """Have compiled graphs report on ``device`` from their next forward on."""
        self._hook.probe = self._hook.probe.on(device)

    def release(self) -> None:
        """Let go of the features that are held."""
        self._asked = None
        self._let_go()

    def __call__(self, *images: Any, **named: Any) -> Any:
        """What the layer reads in a forward of the unwrapped model on other images; the task features stay in place.

        Raises:
            ValueError: if the forward never calls the tapped layer.
        """
        hooks = self._module._forward_pre_hooks
        ours = [(key, hooks.pop(key)) for key, hook in list(hooks.items()) if hook is self._hook]
        collecting = _CollectingHook()
        handle = self._module.register_forward_pre_hook(collecting, with_kwargs=True)
        try:
            self.model(*images, **named)
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
        """Take the hook off the model."""
        self._finalizer()
        self.release()

    def __deepcopy__(self, memo: dict[int, Any]) -> "FeatureTap":
        model = copy.deepcopy(self.model, memo)
        if not hasattr(model, "_modules"):  # the copy of the model is still being made, and holds us
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
