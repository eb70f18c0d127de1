"""What of a method is to be tuned: its class says so by an attribute `GRID`, candidates by the name of the option."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from ._types import Method

#: Values of some options of a method, as pairs sorted by name.
Options = tuple[tuple[str, Any], ...]


def candidates(make: Callable[..., Method]) -> list[Options]:
    """All points of a method's grid, in its order; none for a method that has none.

    Args:
        make: a method's class, or a partial of it; an option that the partial gives is not tuned.
    """
    given = make.keywords if isinstance(make, partial) else {}
    declaring = make.func if isinstance(make, partial) else make  # partials of partials are flat
    grid = getattr(declaring, "GRID", {})
    tuned = sorted(name for name in grid if name not in given)
    if not tuned:
        return []
    return [tuple(zip(tuned, point, strict=True)) for point in itertools.product(*(grid[name] for name in tuned))]
