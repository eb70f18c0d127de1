"""Private randomness: derives seeds from the purpose of a draw, and isolates blocks from the global random streams."""

import hashlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed that depends on every part and on nothing else, and is equal in every process.

    With seeds derived from (seed, purpose, step) in place of generators, the state of a run is a few integers.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def checksum(numbers: Tensor) -> int:
    """Compute a checksum of integers in their order, equal in every process."""
    factors = torch.randint(2**62, numbers.shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    return int(((numbers + 2) * factors).sum())


def private_generator(device: torch.device, seed: int) -> torch.Generator | None:
    """Return a seeded generator on ``device``; None for a device without generators."""
    try:
        return torch.Generator(device=device).manual_seed(seed)
    except RuntimeError:
        return None


@contextmanager
def private_randomness(device: torch.device, seed: int, others: Sequence[Any] = ()) -> Iterator[None]:
    """Run a block (augmentation, dropout) on separate random streams and restore the streams after it.

    Covers torch's generators of the CPU and of ``device``, Python's ``random`` and, if the program has imported it, NumPy.

    Args:
        device: where the block draws.
        seed: seed of the separate streams.
        others: generators beside the global ones, see ``generators_in``.
    """
    numpy_random = sys.modules["numpy"].random if "numpy" in sys.modules else None
    python_state = random.getstate()
    numpy_state = numpy_random.get_state() if numpy_random else None
    generators = _default_generators(device)
    states = [generator.get_state() for generator in generators]
    restored = [_state_of(generator) for generator in others]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        random.seed(seed)
        if numpy_random:
            numpy_random.seed(seed % 2**32)
        for generator in others:
            _reseed(generator, seed)
        yield
    finally:
        for restore in restored:
            restore()
        random.setstate(python_state)
        if numpy_random:
            numpy_random.set_state(numpy_state)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _state_of(generator: Any) -> Callable[[], object]:
    """The state of a generator, as a function that gives it back."""
    if hasattr(generator, "bit_generator"):
        return partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    return partial(generator.set_state, generator.get_state())


def _reseed(generator: Any, seed: int) -> None:
    if hasattr(generator, "bit_generator"):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    elif isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    else:
        with suppress(TypeError):  # a RandomState of another kind is restored afterwards, though not seeded
            generator.seed(seed % 2**32)


def _default_generators(device: torch.device) -> list[torch.Generator]:
    generators = [torch.default_generator]
    if device.type in ("cuda", "xpu"):
        module = getattr(torch, device.type)
        index = module.current_device() if device.index is None else device.index
        generators.append(module.default_generators[index])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    return generators
