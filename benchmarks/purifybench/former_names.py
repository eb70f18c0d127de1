"""Names that methods had in earlier tables, those of the paper among them; commands and stored runs may still use them."""

import dataclasses
import json
from pathlib import Path
from typing import TypeVar

Arguments = TypeVar("Arguments")

#: Former name of a method or of its row -> its name now.
FORMER_NAMES: dict[str, str] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def present_name(name: str) -> str:
    """The name now of a method, or of a row that adds something to one, as in ``"AMTL, oracle weight"``."""
    fitting = [former for former in FORMER_NAMES if name == former or name.startswith(f"{former}, ")]
    former = max(fitting, key=len, default="")
    return FORMER_NAMES[former] + name.removeprefix(former) if former else name


def with_present_names(arguments: Arguments) -> Arguments:
    """Arguments of a command whose methods or variants may go by former names."""
    named = {name: getattr(arguments, name) for name in ("methods", "variants") if getattr(arguments, name, None)}
    return dataclasses.replace(arguments, **{name: tuple(map(present_name, names)) for name, names in named.items()})
