"""Checks of a benchmark's arguments before anything runs: what is wrong is said with the option's name, and the run ends."""

from collections.abc import Iterable, Sized


def refuse_unknown(option: str, given: Iterable[str], known: Iterable[str]) -> None:
    """End the run if a given name is none of the known ones.

    Args:
        option: name of the option, as a Python name.
        given: names from the command line.
        known: names that there are.
    """
    names = list(known)
    for name in given:
        if name not in names:
            raise SystemExit(f"{_flag(option)}: {name!r} is none of {', '.join(map(repr, names))}")


def refuse_empty(option: str, given: Sized) -> None:
    """End the run if the user emptied a list that needs an entry."""
    if not given:
        raise SystemExit(f"{_flag(option)}: name at least one")


def refuse_below(option: str, given: int | None, least: int) -> None:
    """End the run if a number is too small; None, which stands for a default, never is."""
    if given is not None and given < least:
        raise SystemExit(f"{_flag(option)}: must be at least {least}, got {given}")


def refuse_no_share(option: str, given: float) -> None:
    """End the run if a number is no share of a whole."""
    if not 0 <= given <= 1:
        raise SystemExit(f"{_flag(option)}: must be in [0, 1], got {given}")


def _flag(option: str) -> str:
    """An option as the command line has it."""
    return f"--{option.replace('_', '-')}"
