"""Names that methods had in earlier tables, those of the paper among them; commands and stored runs may still use them."""

import dataclasses
from typing import TypeVar

Arguments = TypeVar("Arguments")

#: Former name of a method or of its row -> its name now.
FORMER_NAMES = {
    "goal 1 only": "plain",
    "goal 1, head on unbiased rows": "plain, head on unbiased rows",
    "TL": "transfer",
    "MTL": "multi-task",
    "AMTL": "adversarial multi-task",
    "PL as published, to population": "as published, to population",
    "PL as published, to group": "as published, to group",
    "PL one-sided, balanced": "wdpurify, one-sided, balanced",
    "PL two-sided, one group": "wdpurify, one group",
    "PL all groups (default)": "wdpurify",
    "PL (smiling)": "wdpurify (smiling)",
    "PL, erased at the end": "wdpurify, erased at the end",
    "PL, statistics updated": "wdpurify, statistics updated",
    "PL, head on unbiased rows": "wdpurify, head on unbiased rows",
    "PL, rows as they are": "wdpurify, rows as they are",
    "PL, balanced": "wdpurify, balanced rows",
    "PL and batches, balanced": "wdpurify, balanced",
    "PL and batches, balanced, erased at the end": "wdpurify, balanced, erased at the end",
    "PL and batches, balanced, within each class": "wdpurify, balanced, within each class",
    "PL and balanced batches, weights in the gap": "wdpurify, balanced, weights in the gap",
}


def present_name(name: str) -> str:
    """The name now of a method, or of a row that adds something to one, as in ``"AMTL, oracle weight"``."""
    fitting = [former for former in FORMER_NAMES if name == former or name.startswith(f"{former}, ")]
    former = max(fitting, key=len, default="")
    return FORMER_NAMES[former] + name.removeprefix(former) if former else name


def with_present_names(arguments: Arguments) -> Arguments:
    """Arguments of a command whose methods or variants may go by former names."""
    named = {name: getattr(arguments, name) for name in ("methods", "variants") if getattr(arguments, name, None)}
    return dataclasses.replace(arguments, **{name: tuple(map(present_name, names)) for name, names in named.items()})
