"""The report of one task and network: a table, Markdown, JSON and figures in a folder of their own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from . import figures, report
from .plan import Chosen
from .results import Record, provenance


def write_task_report(
    title: str, records: Sequence[Record], chosen: Chosen, arguments: Mapping[str, Any], folder: Path, console: Console
) -> None:
    """Print the table and write all of it.

    Args:
        title: of table and figures.
        records: runs of one task and network that read the test sets.
        chosen: options of the tuned methods.
        arguments: of the command, to be written down.
        folder: where to write.
        console: where to print.
    """
    rows = report.summarise(records)
    console.print(report.terminal_table(title, rows))
    console.print(report.verdict(rows))
    console.print(report.bound_line(rows))
    figures.accuracy_bars(rows, title, folder / "accuracy.png")
    figures.critic_over_steps(records, title, folder / "critic.png")
    figures.component_shares(records, title, folder / "components.png")
    (folder / "report.md").write_text(
        f"{title}\n\n{report.markdown_table(rows)}\n\n{report.bound_line(rows)}\n", encoding="utf-8"
    )
    backbone = records[0]["key"]["settings"]["backbone"]
    described = {
        "arguments": json.loads(json.dumps(arguments, default=str)),
        "chosen": [
            {"method": method, "by": validation, "options": dict(options)}
            for (name, method, validation), options in chosen.items()
            if name == backbone
        ],
        "rows": [asdict(row) for row in rows],
    }
    (folder / "report.json").write_text(json.dumps(provenance() | described, indent=1), encoding="utf-8")
    console.print(f"figures, report.md and report.json: {folder}")
