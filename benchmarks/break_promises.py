"""Promises broken on purpose, one at a time: which tests notice?

    python benchmarks/break_promises.py

Each entry of `purifybench/promises.py` changes one place of the library, in a copy of the repository, and names the tests that
must notice. One that stays green is a promise without a test: exit status 1.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro
from purifybench import cross_table
from purifybench.promises import BREAKS, Break
from rich.console import Console

ROOT = Path(__file__).parents[1]
COPIED = ("wdpurify", "integrations", "benchmarks", "tests", "docs", "README.md", "pyproject.toml", "Makefile", "CITATION.cff")


@dataclass(frozen=True)
class Arguments:
    """Promises to break.

    Attributes:
        only: words, one of which a promise must contain; all promises by default.
        out: file for the table.
    """

    only: tuple[str, ...] = ()
    out: Path = Path("results/promises.md")


def broken(text: str, change: Break) -> str:
    """The file's text with the change.

    Raises:
        ValueError: unless the old text occurs once.
    """
    if (count := text.count(change.old)) != 1:
        raise ValueError(f"{change.file} holds what breaks {change.promise!r} {count} times, not once")
    return text.replace(change.old, change.new)


def noticed(change: Break, copy: Path) -> str:
    """The test that went red, or an empty string."""
    file = copy / change.file
    text = file.read_text()
    file.write_text(broken(text, change))
    try:
        tests = [f"tests/{name}" for name in change.tests]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    finally:
        file.write_text(text)
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return found[0].partition("[")[0] if done.returncode == 1 and found else ""


def main() -> None:
    """Break, test, mend; report."""
    arguments = tyro.cli(Arguments, description=__doc__)
    console = Console()
    chosen = [change for change in BREAKS if not arguments.only or any(word in change.promise for word in arguments.only)]
    rows = [["promise that was broken", "test that went red"]]
    with TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        for change in chosen:
            test = noticed(change, copy)
            rows.append([change.promise, f"`{test.removeprefix('tests/')}`" if test else "**none**"])
            console.print(f"{'red  ' if test else 'GREEN'} {change.promise}: {test}", highlight=False)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(cross_table.markdown(rows) + "\n")
    if any("none" in row[1] for row in rows[1:]):
        raise SystemExit("a promise was broken and no test noticed")


if __name__ == "__main__":
    main()
