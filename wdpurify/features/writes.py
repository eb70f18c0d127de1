"""WatchedParameters: finds the parameters that a forward changes in place."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class WatchedParameters:
    """Compares parameters with what they were when this was made, which waits for the device.

    A version counter sees writes in place, and a norm those through ``.data``.

    Args:
        named: the parameters with their names.
    """

    def __init__(self, named: Sequence[tuple[str, Tensor]]) -> None:
        self._named = named
        self._before = self._read()

    def written(self) -> list[str]:
        """Return the names of the parameters that changed."""
        pairs = zip(self._named, self._before, self._read(), strict=True)
        return [name for (name, _), before, now in pairs if before != now]

    def _read(self) -> list[tuple[int, float]]:
        """Return version counter and norm of each parameter; a norm of 0 stands for one that is not read or not finite."""
        norms = [0.0] * len(self._named)
        plain = [place for place, (_, each) in enumerate(self._named) if _has_values(each)]
        read = torch._foreach_norm([self._named[place][1].detach() for place in plain]) if plain else ()
        for place, norm in zip(plain, read, strict=True):
            norms[place] = float(norm.nan_to_num())
        return [(0 if each.is_inference() else each._version, norm) for (_, each), norm in zip(self._named, norms, strict=True)]


def _has_values(parameter: Tensor) -> bool:
    is_number = parameter.is_floating_point() and parameter.dtype.itemsize > 1  # no norm of float8
    return type(parameter) is nn.Parameter and is_number and not parameter.is_meta
