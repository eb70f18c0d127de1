"""Libraries that only some calls need."""

import importlib
from typing import Any

#: How the libraries of the audit are installed.
INSTALL = 'pip install ".[audit]" in a clone of wdpurify'


def optional(name: str, purpose: str) -> Any:
    """The module of that name.

    Raises:
        ImportError: naming the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {name.partition('.')[0]}: {INSTALL}") from error
