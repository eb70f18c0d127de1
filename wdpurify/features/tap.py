"""FeatureTap: takes hold of features that the user's loop never sees, by a hook on the layer that reads them."""

import copy
import weakref
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify._torch import in_backward, in_functional_transform, unwrap
from wdpurify.pull import PassRecord, Probe, measured

from .captured_pass import CapturedPass
from .classifier import candidates, find_classifier, input_width


class _InertHook:
    """What copies of a tapped model carry in place of the hook: does nothing, and pickles without this library."""

    def __call__(self, module: nn.Module, arguments: Any, named: Any) -> Any:
        return None

    def __reduce__(self) -> Any:
        # A method of the standard library that takes three arguments and does nothing.
        return getattr, (nullcontext(), "__exit__")


class _CaptureHook(_InertHook):
    """Keeps what the layer reads in training forwards.

    Attributes:
        features: of the last training forward, until they are taken.
        number: of that forward in its pass.
        earlier: of the training forwards before it, by their number, weakly: whatever the user's graph does not need is let go.
        record: of the pass that these forwards make.
        weight: the layer's first parameter during that forward, weakly; another one than outside of it was swapped in.
        evaluated: whether the layer has run in another way than in a training forward since this was last reset.
        passed_by: whether it has run like that with features that carry a gradient, or for a loss that carries no term.
        probe: what measures the gradient that comes back to the features in a compiled graph; knows their width where named.
    """

    def __init__(self, feature_dim: int | None) -> None:
        self.features: Tensor | None = None
        self.number = 0
        self.earlier: dict[int, weakref.ref[Tensor]] = {}
        self.record = PassRecord()
        self.weight: weakref.ref[Tensor] | None = None
        self.evaluated = False
        self.passed_by = False
        self.compiled = False
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
        self.compiled = compiled
        if not compiled:
            if self.record.closed:  # nobody asked for the term of a pass whose backward is through: another one begins
                self.passed_by = True
                self.begin_pass()
            self.forget_the_dead()
            if isinstance(self.features, Tensor):
                self.earlier[self.number] = weakref.ref(self.features)
            if isinstance(features, Tensor):
                self.number = self.record.read_at(features)
            self.weight = _first_weight(module)
        self.features = features
        if not compiled or not isinstance(features, Tensor):  # refused by name where the features are used
            return None
        seen = measured(features, self.probe)
        return ((seen, *arguments[1:]), named) if keyword is None else (arguments, {**named, keyword: seen})

    def begin_pass(self) -> None:
        """The next training forward is the first of its pass."""
        self.features = None
        self.weight = None
        self.earlier = {}
        self.record = PassRecord()

    def forget_the_dead(self) -> None:
        """Let go of what is kept of features that are not there any more."""
        for number in [number for number, reference in self.earlier.items() if reference() is None]:
            del self.earlier[number]
            self.record.forget(number)

    def __deepcopy__(self, memo: Any) -> _InertHook:
        return _InertHook()


class _CollectingHook:
    """Keeps what the layer reads in one auxiliary forward."""

    def __init__(self) -> None:
        self.features: Any = None

    def __call__(self, module: nn.Module, arguments: Any, named: Any) -> None:
        self.features = arguments[0] if arguments else next(iter(named.values()))


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
        self.model = unwrap(model)
        if isinstance(self.model, torch.jit.ScriptModule):
            raise TypeError("`model` is a TorchScript module, which takes no Python hooks: tap it before torch.jit.script")
        layers = dict(self.model.named_modules())
        if layer is None:
            layer = find_classifier(self.model)
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
        self._hook = _CaptureHook(self.feature_dim)
        self._current: CapturedPass | None = None
        handle = self._module.register_forward_pre_hook(self._hook, with_kwargs=True)
        self._finalizer = weakref.finalize(self, handle.remove)
        self._finalizer.atexit = False

    @property
    def module(self) -> nn.Module:
        """The tapped layer."""
        module: nn.Module = self._module
        return module

    def current(self) -> CapturedPass | None:
        """The pass that is under way: the training forwards since the last one, or that one until its backward is through."""
        hook = self._hook
        if hook.features is not None:
            forwards = {number: reference() for number, reference in hook.earlier.items()} | {hook.number: hook.features}
            alive = {number: features for number, features in forwards.items() if features is not None}
            swapped = hook.weight is not None and _was_swapped(hook.weight(), _first_weight(self._module))
            probe = hook.probe.leaf if hook.compiled else None
            self._current = CapturedPass(list(alive.values()), list(alive), hook.record, swapped=swapped, probe=probe)
            self._reset_hook()
        if self._current is not None and self._current.record.closed:
            self._current = None
        return self._current

    def was_evaluated(self) -> bool:
        """Whether the layer has run outside training forwards since this was last asked."""
        evaluated = self._hook.evaluated
        self._hook.evaluated = False
        return evaluated

    def was_passed_by(self) -> bool:
        """Whether a backward pass that no term was asked for may have gone through the layer since the features were let go."""
        hook = self._hook
        captured = hook.features is not None and (hook.compiled or hook.record.closed)
        return hook.passed_by or captured

    def place_probe(self, device: torch.device) -> None:
        """Have compiled graphs report on ``device`` from their next forward on."""
        self._hook.probe = self._hook.probe.on(device)

    def release(self) -> None:
        """Let go of the features that are held."""
        self._current = None
        self._reset_hook()

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

    def _reset_hook(self) -> None:
        self._hook.passed_by = False
        self._hook.begin_pass()


def _first_weight(module: nn.Module) -> "weakref.ref[Tensor] | None":
    weight = next((parameter for parameter in module._parameters.values() if parameter is not None), None)
    return None if weight is None else weakref.ref(weight)


def _was_swapped(during: Tensor | None, outside: "weakref.ref[Tensor] | None") -> bool:
    """Whether a forward ran with another parameter than the module's own; sharded parameters are exchanged by right."""
    own = None if outside is None else outside()
    return type(own) is nn.Parameter and during is not own
