"""The results store: one JSON line per finished run, so that a killed benchmark goes on where it stopped."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from .former_names import present_name

Record = dict[str, Any]


class ResultsStore:
    """Records in a file of JSON lines; a run is known by its key, the plain values that it depends on.

    Args:
        path: the file; made with its folder when the first record comes.

    Raises:
        ValueError: if the file is a folder, or is not there and cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        folder = next(each for each in path.absolute().parents if each.exists())
        if not path.is_file() and (path.exists() or not folder.is_dir() or not os.access(folder, os.W_OK)):
            raise ValueError(f"results cannot be written to {path}. Give a file in a folder that can be written to")

    def records(self) -> list[Record]:
        """All records; a line cut short by a kill is passed over.

        Raises:
            ValueError: if another line is no record.
        """
        if not self.path.exists():
            return []
        found = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if not isinstance(record, dict) or not isinstance(key := record.get("key"), dict):
                raise ValueError(f"line {number} of {self.path} is no record of a run. Take it out, or give another file")
            key |= {name: present_name(key[name]) for name in ("method", "row") if isinstance(key.get(name), str)}
            found.append(record)
        return found

    def found(self, keys: Iterable[dict[str, Any]]) -> list[Record]:
        """The newest records of the runs that there are, in the order of the keys."""
        newest = {key_digest(record["key"]): record for record in self.records()}
        return [newest[digest] for key in keys if (digest := key_digest(key)) in newest]

    def forget(self, keys: Iterable[dict[str, Any]]) -> None:
        """Take the records of these runs out; all others stay."""
        unwanted = {key_digest(key) for key in keys}
        if kept := [record for record in self.records() if key_digest(record["key"]) not in unwanted]:
            unfinished = self.path.with_suffix(".unfinished")
            unfinished.write_text("".join(f"{json.dumps(record)}\n" for record in kept), encoding="utf-8")
            unfinished.replace(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def add(self, record: Record) -> None:
        """Append one record and see it written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        broken = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if broken else "") + json.dumps(record) + "\n")


def grouped(records: Iterable[Record], *names: str) -> dict[Any, list[Record]]:
    """The records by a value of their key, or by several, in the order in which these first appear; see `described`."""
    found: dict[Any, list[Record]] = {}
    for record in records:
        values = tuple(described(record).get(name) for name in names)
        found.setdefault(values if len(names) > 1 else values[0], []).append(record)
    return found


def described(record: Record) -> dict[str, Any]:
    """All that a run's key says, by the names of settings and data too."""
    key = record["key"]
    return {**key, **key["settings"], **key.get("data", {})}


def accuracies(records: Iterable[Record]) -> pd.DataFrame:
    """One line per run and test set."""
    columns = ("task", "row", "backbone", "steps", "seed", "bias", "label", "auxiliary")
    lines = []
    for record in records:
        known = described(record)
        run = {name: known.get(name, "") for name in columns}
        lines += [{**run, "test": test, "accuracy": accuracy} for test, accuracy in record["accuracy"].items()]
    return pd.DataFrame(lines, columns=[*columns, "test", "accuracy"])


def write_accuracies(records: Iterable[Record], path: Path) -> None:
    """A CSV file with one line per run and test set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    accuracies(records).to_csv(path, index=False, lineterminator="\r\n")


def key_digest(key: dict[str, Any]) -> str:
    """A short name of a run, for its checkpoint."""
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()


def provenance(packages: Iterable[str] = ("wdpurify", "torch", "torchvision", "timm", "accelerate", "datasets")) -> Record:
    """Commit, versions and machine, for whoever wants to repeat a figure."""
    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": torch.get_num_threads(),
        },
    }


def write_described(path: Path, arguments: Any, **found: Any) -> None:
    """JSON of what was found, and of what it was made with: commit, versions, machine and the arguments of a command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"arguments": json.loads(json.dumps(arguments, default=str))}
    path.write_text(json.dumps(provenance() | said | found, indent=1), encoding="utf-8")


def _commit() -> str:
    here = Path(__file__).parent
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"
