"""The auxiliary forward: the user's extractor on auxiliary rows, leaving no trace in model, random state or autocast cache."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._devices import moved
from ._random import derive_seed, private_randomness
from ._sampler import GroupBatch, Sampler

#: Children under which wrappers keep the module that they wrap: torch.compile, DataParallel and DDP, old Accelerate.
WRAPPED = ("_orig_mod", "module", "_forward_module")
#: Libraries whose classes may be such wrappers; a user's own class with a child called `module` does work of its own.
WRAPPER_LIBRARIES = ("torch", "accelerate", "deepspeed", "lightning", "lightning_fabric")


class AutocastState(NamedTuple):
    """The autocast setting of a forward pass, to be replayed in the auxiliary one."""

    device_type: str
    dtype: torch.dtype


def current_autocast(device_type: str) -> AutocastState | None:
    """The setting now in force for a device type; None where autocast is off."""
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return None
    return AutocastState(device_type, torch.get_autocast_dtype(device_type))


def unwrap(module: nn.Module) -> nn.Module:
    """The user's own module behind DDP, torch.compile and the like; a second forward through DDP would upset its buckets."""
    if type(module).__module__.partition(".")[0] in WRAPPER_LIBRARIES:
        children = dict(module.named_children())
        for name in WRAPPED:
            if children.keys() == {name}:
                return unwrap(children[name])
    return module


def owner_of(extract: Callable[..., Any]) -> nn.Module | None:
    """The module behind a callable: itself, what a method is bound to, what a partial wraps; None for a plain function."""
    if isinstance(extract, nn.Module):
        return extract
    if isinstance(extract, functools.partial):
        return owner_of(extract.func)
    bound = getattr(extract, "__self__", None)
    return bound if isinstance(bound, nn.Module) else None


@contextmanager
def preserved_buffers(module: nn.Module) -> Iterator[None]:
    """Let a forward pass write into copies of every buffer (BatchNorm statistics, spectral-norm vectors), then drop the copies.

    The originals are set aside, not restored by copying: their version counters stay, so a graph recorded before this
    block can still go backward, and a graph recorded inside it survives whatever happens to the originals later.
    """
    originals = [
        (owner, name, buffer) for owner in module.modules() for name, buffer in owner._buffers.items() if buffer is not None
    ]
    copies: dict[int, Tensor] = {}
    try:
        for owner, name, buffer in originals:
            owner._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
        yield
    finally:
        for owner, name, buffer in originals:
            owner._buffers[name] = buffer


_depth = 0


def auxiliary_running() -> bool:
    """Whether an auxiliary forward of any regularizer is under way, so that taps of others look aside."""
    return _depth > 0


@contextmanager
def _running() -> Iterator[None]:
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


class AuxiliaryForward:
    """Runs the extractor on auxiliary images as the training forward would run, but without side effects.

    Args:
        extract: maps images to features.
        model: module whose buffers are protected and whose device and dtype the images get.
        update_statistics: let the forward update running statistics like any training forward.
        seed: seed of dropout and the like during these forwards.
    """

    def __init__(self, extract: Callable[..., Any], model: nn.Module, *, update_statistics: bool, seed: int) -> None:
        self._extract = unwrap(extract) if isinstance(extract, nn.Module) else extract
        self.model = unwrap(model)
        self._update_statistics, self._seed = update_statistics, seed
        self.replayed: AutocastState | None = None

    def state_dict(self) -> dict[str, Any]:
        """The autocast setting to replay, as strings."""
        if self.replayed is None:
            return {"autocast": None}
        return {"autocast": [self.replayed.device_type, str(self.replayed.dtype).removeprefix("torch.")]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved setting."""
        saved = state["autocast"]
        self.replayed = None if saved is None else AutocastState(saved[0], getattr(torch, saved[1]))

    def place(self) -> tuple[torch.device, torch.dtype]:
        """Device and floating dtype of the extractor's first parameter; CPU and float32 for one without parameters."""
        for parameter in self.model.parameters():
            if parameter.is_floating_point():
                return parameter.device, parameter.dtype
        return torch.device("cpu"), torch.float32

    def __call__(self, images: Any, *, step: int, with_grad: bool) -> Any:
        """Features of ``images``; a graph is recorded only ``with_grad``."""
        device, dtype = self.place()
        autocast = current_autocast(device.type) or self.replayed
        images = _to(images, device, torch.float32 if autocast else dtype)
        guard = nullcontext() if self._update_statistics else preserved_buffers(self.model)
        randomness = private_randomness(device, derive_seed(self._seed, "auxiliary forward", step))
        with torch.set_grad_enabled(with_grad), guard, _replay(autocast), randomness, _running():
            try:
                return self._extract(**images) if isinstance(images, Mapping) else self._extract(images)
            except Exception as error:
                if hasattr(error, "add_note"):  # Python 3.11
                    error.add_note(
                        "This was wdpurify's forward of auxiliary rows: they must be prepared like the task's images; rows "
                        "that are dicts are given by keyword; and a model that takes more than images is tapped further in, "
                        '`PurifyRegularizer.for_model(model.encoder, sampler, layer="...")`'
                    )
                raise

    def draw(self, sampler: Sampler, *, step: int) -> GroupBatch:
        """The sampler's next batch, with whatever its data set or transform draws at random fenced off likewise."""
        with private_randomness(torch.device("cpu"), derive_seed(self._seed, "auxiliary rows", step)):
            return sampler.next_batch()

    def follow(self, features: Tensor) -> None:
        """Take note of the autocast setting that made these task features, to replay it."""
        half = features.dtype in (torch.float16, torch.bfloat16) and self.place()[1] == torch.float32
        made = AutocastState(features.device.type, features.dtype) if half else None
        self.replayed = made or current_autocast(features.device.type)


def _replay(state: AutocastState | None) -> Any:
    # An own weight cache (none): casts made here without a graph must not be handed to the user's forward.
    return nullcontext() if state is None else torch.autocast(state.device_type, state.dtype, cache_enabled=False)


def _to(images: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(images, Tensor):
        return moved(images, device, dtype if images.is_floating_point() else None)
    if isinstance(images, Mapping):
        return {name: _to(value, device, dtype) for name, value in images.items()}
    return images
