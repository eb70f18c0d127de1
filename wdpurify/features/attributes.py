"""AttributeCopies: copies what a forward may change in the attributes of modules."""

from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

#: Number of entries from which a container is copied without a look at what its entries hold.
LONG = 1000
#: Number of entries from which an array of NumPy is left alone: it is a table to read from.
LARGE = 1_000_000
#: Number of containers in each other from which what they hold is left alone.
DEEPEST = 100
_CONTAINERS = (list, dict, set, OrderedDict, defaultdict, deque, Counter)
#: Types of most attributes, which need no copy.
PLAIN = frozenset({bool, int, float, str, type(None)})


class AttributeCopies:
    """Copies attributes. One object has one copy, so what is shared between modules stays shared.

    Args:
        stand_ins: of parameters, by their ``id``; copies of tensors are added.
    """

    def __init__(self, stand_ins: dict[int, Tensor]) -> None:
        self._stand_ins = stand_ins
        self._containers: dict[int, Any] = {}

    def of_tensor(self, value: Any) -> Any:
        """Return a copy of a tensor; parameters, lazy ones and tensors with a graph are returned as they are."""
        if not isinstance(value, Tensor) or value.requires_grad or is_lazy(value):
            return value
        return self._stand_ins.setdefault(id(value), value.clone())  # tied buffers stay tied

    def of(self, value: Any, depth: int = 0) -> Any:
        """Return a copy of an attribute: containers, nested ones too, and the tensors in them are copied."""
        kind = type(value)
        if depth > DEEPEST:
            return value
        if kind is Tensor:
            return self.of_tensor(value)
        if kind is tuple and all(type(part) in PLAIN for part in value):
            return value
        if kind is tuple or (isinstance(value, tuple) and hasattr(value, "_make")):
            parts = [self.of(part, depth + 1) for part in value]
            changed = any(part is not original for part, original in zip(parts, value, strict=True))
            return getattr(kind, "_make", kind)(parts) if changed else value
        is_array = (kind.__module__, kind.__name__) == ("numpy", "ndarray") and value.size <= LARGE
        if kind not in _CONTAINERS and not is_array:
            return self._stand_ins.get(id(value), value) if kind is nn.Parameter else value
        if id(value) in self._containers:
            return self._containers[id(value)]
        copied = self._containers[id(value)] = value.copy()
        if is_array or not value or len(value) > LONG or kind in (set, Counter):
            return copied
        if isinstance(copied, dict):
            copied.update({key: self.of(part, depth + 1) for key, part in value.items()})
        else:
            for place, part in enumerate(value):  # recurrent layers keep their weights in a list
                copied[place] = self.of(part, depth + 1)
        return copied
