"""Isolates a model during an auxiliary forward: everything that the forward would change or call is replaced temporarily.

The module objects stay in place, so functions, methods and sharded models still find them. Copies replace buffers, and tensors
and containers in attributes. Lists without the user's hooks replace the lists of hooks. Separate leaves on the same memory
replace trainable parameters. Afterwards every attribute of every module is the original one.
"""

import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wdpurify._torch import is_sharded, root_library, shards_of

from .attributes import PLAIN, AttributeCopies
from .refusals import HOOKS, refuse_gradients_per_sample, refuse_lazy
from .writes import WatchedParameters

#: Libraries whose hooks are part of what a module computes (weight norm, sharding, placement); other hooks are the user's.
STRUCTURAL = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "accelerate",
    "deepspeed",
    "peft",
    "bitsandbytes",
    "lightning",
    "lightning_fabric",
)
Result = TypeVar("Result")
#: Containers of torch's own in every module, whose entries need no copy.
_OF_TORCH = vars(nn.Module()).items()
_BOOKKEEPING = {name for name, value in _OF_TORCH if isinstance(value, dict | set)} - {"_parameters", "_buffers", "_modules"}


class Isolation:
    """Temporary attributes of all modules of a model, for an auxiliary forward.

    Each module gets a temporary ``__dict__``, and later its original one, unchanged. One call without Python code exchanges all
    of them, so an interrupt (Ctrl-C, a signal) comes before or after the exchange. A signal handler that saves the model during
    the forward gets the original state.

    Args:
        model: the user's module, unwrapped.
        update_buffers: keep the forward's changes of buffers, as after a training forward.
        with_grad: whether the forward records a graph.
        watch: let :meth:`written_parameters` find parameters that the forward changes; waits for the device.

    Attributes:
        names: names of the model's parameters, by their ``id``; of a sharded model, those of whole parameters and of shards.

    Raises:
        ValueError: if a layer has no weights yet, because auxiliary rows would initialise it.
    """

    def __init__(self, model: nn.Module, *, update_buffers: bool, with_grad: bool, watch: bool = False) -> None:
        refuse_gradients_per_sample(model)
        sharded = is_sharded(model)
        self._sharded = with_grad and sharded
        self._shards = shards_of(model) if self._sharded else []
        named = list(model.named_parameters())
        refuse_lazy(named)
        self.names = {id(parameter): name for name, parameter in named}
        self._model = model
        if self._sharded:
            self._gather()
            named = list(model.named_parameters())
            self.names |= {id(parameter): name for name, parameter in named}
        parameters = [parameter for _, parameter in named]
        parts = list(model.modules())
        self._modules = [part for part in parts if not isinstance(part, torch.jit.ScriptModule)]
        # Scripted parts have no attributes to exchange: their buffers get their values back.
        self._scripted = [] if update_buffers or len(self._modules) == len(parts) else _buffers_of_scripted(parts)
        self._originals = [vars(part) for part in self._modules]
        self._update_buffers = update_buffers
        self._trainable = [parameter for parameter in parameters if parameter.requires_grad] if with_grad else []
        self._stand_ins: dict[int, Tensor] = {}
        if not sharded:
            self._stand_ins = _stand_ins_of(self._modules, parameters)
        self._copies = AttributeCopies(self._stand_ins)
        self._isolated = [self._isolated_dict(part) for part in self._modules]
        self._watched = WatchedParameters(named) if watch and not sharded else None

    def enter(self) -> None:
        """Install the temporary attributes."""
        _exchange(self._modules, self._isolated)

    def leave(self) -> None:
        """Restore the original attributes; idempotent."""
        _exchange(self._modules, self._originals)
        for buffer, value in self._scripted:
            buffer.data.copy_(value)

    def written_parameters(self) -> list[str]:
        """Return the names of parameters that were changed in place, if ``watch``; call this after :meth:`leave`.

        Empty for a sharded model, because FSDP exchanges its parameters around each forward.
        """
        return [] if self._watched is None else self._watched.written()

    def take_over_buffers(self) -> None:
        """Copy the forward's changes into the model's buffers if ``update_buffers``; call this after :meth:`leave`."""
        if self._update_buffers:
            for original, isolated in zip(self._originals, self._isolated, strict=True):
                _take_over(original["_buffers"], isolated["_buffers"])

    def _gather(self) -> None:
        """Unshard the outermost module's own parameters, as a training forward does until the backward pass of its outputs.

        There is no backward pass of its outputs here, and only whole parameters get their gradient before it.
        """
        if hasattr(self._model, "unshard"):
            self._model.unshard()  # type: ignore[operator]

    def gradients(self, outputs: Tensor, gradient: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the trainable parameters that ``outputs`` depend on, each with its gradient, for a gradient at ``outputs``.

        Only ``backward()`` reaches sharded parameters and those behind reentrant checkpoints; their ``.grad`` is restored.
        """
        if not self._trainable:
            return []
        inputs = [self._stand_ins.get(id(parameter), parameter) for parameter in self._trainable]
        # A scripted part, a closure or an object of another kind reaches the parameters themselves.
        replaced = [parameter for parameter in self._trainable if id(parameter) in self._stand_ins]
        if self._sharded:
            self._gather()  # the outermost module may have been sharded again after its forward
            # After the backward pass of a part, FSDP reduces its gradient into the shard. Parameters of the outermost module
            # are still whole, and so are their gradients.
            gradients = _by_backward([*inputs, *self._shards], outputs, gradient)
            wholes = zip(self._trainable, gradients, strict=False)
            shards = zip(self._shards, gradients[len(inputs) :], strict=True)
            return [
                next((parameter, reached.detach()) for parameter, reached in (shard, whole) if reached is not None)
                for whole, shard in zip(wholes, shards, strict=True)
                if whole[1] is not None or shard[1] is not None
            ]
        try:
            gradients = list(torch.autograd.grad(outputs, [*inputs, *replaced], gradient, allow_unused=True))
        except RuntimeError as error:
            if "heckpoint" not in str(error):
                raise
            gradients = _by_backward([*inputs, *replaced], outputs, gradient)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for parameter, reached in zip([*self._trainable, *replaced], gradients, strict=True):
            if reached is not None:
                _, before = found.get(id(parameter), (parameter, None))
                found[id(parameter)] = parameter, reached.detach() if before is None else before + reached.detach()
        return list(found.values())

    def _isolated_dict(self, module: nn.Module) -> dict[str, Any]:
        attributes = dict(vars(module))
        for name, value in vars(module).items():
            if name in _BOOKKEEPING and not (value and name in HOOKS):
                attributes[name] = value.copy()
            elif name != "_modules" and type(value) not in PLAIN:
                attributes[name] = self._isolated_value(name, value)
        # Hides the method of the class. A strong reference would make a cycle, which lives until Python collects garbage.
        attributes["state_dict"] = partial(_saved_outside, weakref.ref(self), module)
        return attributes

    def _isolated_value(self, name: str, value: Any) -> Any:
        if name in HOOKS:
            return OrderedDict((key, hook) for key, hook in value.items() if root_library(hook) in STRUCTURAL)
        if name == "_compiled_call_impl":  # of `module.compile()`, which would compile again for the temporary tensors
            return None
        if name == "_parameters":
            stand_ins = self._stand_ins
            return {key: stand_ins.get(id(each), each) for key, each in value.items()} if stand_ins else value
        if name == "_buffers":
            return {key: self._copies.of_tensor(buffer) for key, buffer in value.items()}
        return self._copies.of(value)


def _stand_ins_of(modules: Sequence[nn.Module], parameters: Sequence[Tensor]) -> dict[int, Tensor]:
    """Return a stand-in for each plain parameter, by its ``id``: on the same memory, or a copy if a forward may change it.

    An embedding with ``max_norm`` rescales its weight in place (pytorch/pytorch#26596). Frozen parameters may be a slow copy of
    trained ones (MoCo). More frozen than trained parameters are a backbone, and are not copied because of the cost. Parameters
    of other kinds (distributed, quantised, not yet initialised) get no stand-in.
    """
    plain = [parameter for parameter in parameters if type(parameter) is nn.Parameter]
    frozen = [parameter for parameter in plain if not parameter.requires_grad]
    few = 2 * sum(parameter.numel() for parameter in frozen) <= sum(parameter.numel() for parameter in plain)
    written = {id(part.weight) for part in modules if getattr(part, "max_norm", None) is not None}
    written |= {id(parameter) for parameter in frozen} if few else set()
    return {
        id(parameter): nn.Parameter(
            parameter.detach().clone() if id(parameter) in written else parameter.detach(),
            requires_grad=parameter.requires_grad,
        )
        for parameter in plain
    }


def run_isolated(
    model: nn.Module,
    work: Callable[[Isolation], Result],
    *,
    update_buffers: bool,
    with_grad: bool,
    watch: bool = False,
) -> Result:
    """Call ``work`` while the model is isolated, see :class:`Isolation`, and return its result."""
    isolation = Isolation(model, update_buffers=update_buffers, with_grad=with_grad, watch=watch)
    cache = parametrize._cache  # of the user's `parametrize.cached()`, if one is under way
    try:
        try:
            isolation.enter()
            parametrize._cache = {} if parametrize._cache_enabled else cache
            result = work(isolation)
        finally:
            parametrize._cache = cache
            isolation.leave()
    finally:
        parametrize._cache = cache
        isolation.leave()  # once more: an interrupt may have come before the first call
    isolation.take_over_buffers()
    return result


def _buffers_of_scripted(parts: Sequence[nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """Return each buffer of the TorchScript parts, with a copy of its value."""
    scripted = [part for part in parts if isinstance(part, torch.jit.ScriptModule)]
    return [(buffer, buffer.clone()) for part in scripted for buffer in part.buffers(recurse=False)]


def _saved_outside(isolation: "weakref.ref[Isolation]", module: nn.Module, *arguments: Any, **named: Any) -> Any:
    """Return the original ``state_dict()`` of a module to a signal handler."""
    isolated = isolation()
    assert isolated is not None  # it lives as long as the temporary attributes are installed
    isolated.leave()
    try:
        return module.state_dict(*arguments, **named)
    finally:
        isolated.enter()


def _exchange(modules: Sequence[nn.Module], attributes: Sequence[dict[str, Any]]) -> None:
    # Python runs signal handlers between bytecode instructions, and this is one: deque and map are written in C.
    deque(map(object.__setattr__, modules, repeat("__dict__"), attributes), maxlen=0)


def _take_over(originals: dict[str, Any], written: dict[str, Any]) -> None:
    """Copy written values into buffers without a change of version counters, because a later backward may check them."""
    for name, buffer in written.items():
        original = originals.get(name)
        if isinstance(original, Tensor) and isinstance(buffer, Tensor) and original.shape == buffer.shape:
            original.data.copy_(buffer)
        else:
            originals[name] = buffer


def _by_backward(inputs: Sequence[Tensor], outputs: Tensor, gradient: Tensor) -> list[Tensor | None]:
    kept = [parameter.grad for parameter in inputs]
    for parameter in inputs:
        parameter.grad = None
    try:
        torch.autograd.backward(outputs, gradient)
        return [parameter.grad for parameter in inputs]
    finally:
        for parameter, grad in zip(inputs, kept, strict=True):
            parameter.grad = grad
