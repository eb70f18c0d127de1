"""Make the paper's tables anew, from stored results of any number of runs of the other benchmarks.

    python benchmarks/report.py results/faces results/digits --out results/report

Each table stands beside the paper's own figures, with means, 95 % intervals, pairs won, tied and lost and a paired test against
plain training; `accuracy.csv` has every accuracy in a line of its own.
"""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from purifybench import paper_tables
from purifybench.results import Record, ResultsStore, key_digest
from purifybench.tables import console

Table = Literal["1", "2", "3", "bias"]


def main(
    stores: Annotated[tuple[Path, ...], tyro.conf.Positional],
    tables: tuple[Table, ...] = ("1", "2", "3", "bias"),
    out: Path = Path("results/report"),
) -> None:
    """Read, print, write.

    Args:
        stores: `results.jsonl` files, or folders to look for them in; of equal runs the one read last counts.
        tables: the paper's tables to make, where the results hold them.
        out: folder for reports and figures.
    """
    records = read(stores)
    terminal = console(120)
    written = paper_tables.write(records, out, terminal, wanted=tables)
    if not written:
        raise SystemExit(f"the {len(records)} runs hold none of the tables {', '.join(tables)}")
    terminal.print(f"{len(records)} runs; written: {', '.join(map(str, written))}")


def read(stores: tuple[Path, ...]) -> list[Record]:
    """The runs that read the test sets, each once."""
    if not stores:
        raise SystemExit("name at least one results.jsonl, or a folder that holds some")
    found: dict[str, Record] = {}
    for given in stores:
        if not given.exists():
            raise SystemExit(f"{given}: there is no such file or folder")
        paths = sorted(given.rglob("results.jsonl")) if given.is_dir() else [given]
        if not paths:
            raise SystemExit(f"{given}: no results.jsonl in it; the benchmarks write one to their --out")
        for path in paths:
            try:
                runs = ResultsStore(path).records()
            except ValueError as error:
                raise SystemExit(str(error)) from error
            if not all("accuracy" in run for run in runs) or not runs:
                raise SystemExit(f"{path}: holds no results of a benchmark")
            found |= {key_digest(run["key"]): run for run in runs if run["key"].get("test", True)}
    return list(found.values())


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
