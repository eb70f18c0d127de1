"""Tasks: how the data of a run are made. One small file each; a new one needs a file and a line in `TASKS`.

A file has a function `build` that returns a `Task`; see `_types.py` for what a task is. It takes `seed` and, by their names,
those options of the benchmark that its data depend on, such as `image_size` and `bias`.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from purifybench.faces.layouts import LAYOUTS
from purifybench.faces.sets import TASK_SETS

from . import biased_colour, cartoon_faces, photo, real_digits, real_faces, tinted_shapes
from ._types import Auxiliary as Auxiliary
from ._types import Split as Split
from ._types import Task as Task
from ._types import on_own_rows as on_own_rows
from ._types import to_float as to_float

#: Task name -> builder, called as ``TASKS[name](seed=..., **options_for(TASKS[name], options))``.
TASKS: Mapping[str, Callable[..., Task]] = {
    "colour": biased_colour.build,
    "photo": photo.build,
    "shapes": tinted_shapes.build,
    "real": real_digits.build,
    **{name: partial(cartoon_faces.build, train=name) for name in TASK_SETS},
    **{name: partial(real_faces.build, train=name) for name in LAYOUTS},
}


def built(name: str, seed: int, options: Mapping[str, Any]) -> Task:
    """A task of the table, from all options that a benchmark was given."""
    return TASKS[name](seed=seed, **options_for(TASKS[name], options))


def options_for(build: Callable[..., Task], options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options of a benchmark those that a builder takes; one that is None is left to the builder's default."""
    taken = open_options(build)
    return {name: value for name, value in options.items() if name in taken and value is not None}


def needed_options(build: Callable[..., Task]) -> list[str]:
    """Names of the options without which a builder cannot do."""
    return [name for name, option in open_options(build).items() if option.default is option.empty]


def open_options(build: Callable[..., Task]) -> dict[str, inspect.Parameter]:
    """The options that a builder names, and that the table has not given already."""
    given = build.keywords if isinstance(build, partial) else {}
    options = inspect.signature(build).parameters
    return {name: option for name, option in options.items() if name != "seed" and name not in given}
