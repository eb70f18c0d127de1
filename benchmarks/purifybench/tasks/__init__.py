"""Tasks: each file builds one `Task` from data; see `_types.py` for what a task is."""

from ._types import Auxiliary as Auxiliary
from ._types import Split as Split
from ._types import Task as Task
