"""Every command of a benchmark on a page is one that its script takes, with methods that there are."""

import functools
import re
import runpy
import shlex
import sys
from pathlib import Path

import modalities
import pytest
import tyro
from purifybench.former_names import present_name
from purifybench.methods import FACE_METHODS, METHODS, OWN_ROWS_METHODS, PICTURE_METHODS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "benchmarks").glob("*.md"), *(ROOT / "docs").rglob("*.md")]
KNOWN = {*METHODS, *FACE_METHODS, *OWN_ROWS_METHODS, *PICTURE_METHODS, *modalities.METHOD_NAMES}


def _commands(text):
    """The commands of a page, in fences and in running text, without comments and with their lines joined."""
    text = re.sub(r"\\\n *", " ", text)
    fenced = re.findall(r"^ *(?:accelerate launch|python) (benchmarks/\w+\.py[^\n#]*)", text, flags=re.MULTILINE)
    inline = re.findall(r"`(?:accelerate launch|python) (benchmarks/\w+\.py[^`]*)`", text)
    return [" ".join(command.split()) for command in [*fenced, *inline] if "..." not in command]


COMMANDS = sorted({command for page in PAGES for command in _commands(page.read_text(encoding="utf-8"))})


class _Parsed(Exception):
    """The arguments were taken."""


def _raises(_):
    raise _Parsed


def _idle(kind):
    """What is called with the arguments: a class as it is, a function without its work."""
    return kind if isinstance(kind, type) else functools.wraps(kind)(lambda *arguments, **named: None)


def test_commands_are_found_in_fences_and_in_text():
    fence = "```\npython benchmarks/a.py --b 1 \\\n    --c  # why\n```\n"
    page = f"{fence}and `accelerate launch benchmarks/d.py\n--e f`, `python benchmarks/g.py ...`"
    assert _commands(page) == ["benchmarks/a.py --b 1 --c", "benchmarks/d.py --e f"]
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_page_is_taken_by_its_script(command, monkeypatch):
    script, *arguments = shlex.split(command)
    parse, choose = tyro.cli, tyro.extras.subcommand_cli_from_dict
    monkeypatch.setattr(tyro, "cli", lambda kind, **named: _raises(parse(_idle(kind), **named)))
    monkeypatch.setattr(
        tyro.extras,
        "subcommand_cli_from_dict",
        lambda kinds, **named: _raises(choose({name: _idle(kind) for name, kind in kinds.items()}, **named)),
    )
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(_Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize("command", [command for command in COMMANDS if "--methods" in command])
def test_the_methods_of_a_command_of_a_page_exist(command):
    words = shlex.split(command)
    first = words.index("--methods") + 1
    last = next((place for place in range(first, len(words)) if words[place].startswith("--")), len(words))
    assert {present_name(name) for name in words[first:last]} <= KNOWN
