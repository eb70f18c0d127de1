"""From stored runs to the paper's tables, as Markdown and figures: the end of `fer.py`, the whole of `report.py`."""

import csv
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from . import cross_table, figures, paper, report
from .report import BASELINE, DEFAULT
from .results import Record

SMILING = "wdpurify (smiling)"
#: Tables that can be asked for: the paper's three, and accuracy against bias.
TABLES = ("1", "2", "3", "bias")
#: Rows of the tables and what the paper calls them.
FACE_NAMES = {
    BASELINE: "Goal 1",
    "transfer": "TL",
    "multi-task": "MTL",
    "adversarial multi-task": "AMTL",
    DEFAULT: "PL",
    SMILING: "PL (smiling)",
}
DIGIT_NAMES = {BASELINE: "Goal 1", "gradient reversal": "DANN", DEFAULT: "PL"}
#: Test sets of the digit tasks by their names in the paper; the photographs of the embedded task stand in for MNIST-M.
DIGIT_TESTS = {"mnist_m": "MNIST-M", "mnist-m": "MNIST-M", "svhn": "SVHN"}


def write(
    records: Sequence[Record], out: Path, console: Console, *, tables: Sequence[str] = TABLES, tie: float = 0.05
) -> list[Path]:
    """Print the tables that the records hold; write them as Markdown, with figures, and all accuracies as one tidy CSV file.

    Args:
        records: runs that read the test sets, of any tasks, methods, seeds, biases and networks.
        out: folder; one below it per network, bias and length of run.
        console: where to print.
        tables: which of `TABLES`; pictures have a table of their own in any case.
        tie: difference of means, in points, below which a pair of sets counts as tied.

    Returns:
        The reports written.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_accuracies(records, out / "accuracy.csv")
    faces = [record for record in records if "label" in record["key"]["data"]]
    pictures = [record for record in records if "pictures" in record["key"]["data"]]
    digits = [record for record in records if record not in faces and record not in pictures]
    written = []
    for described, family in _families(pictures, lambda data: data).items():
        folder = out / f"pictures-{described}"
        written.append(_save(folder, [_picture_table(family, folder, console)]))
    for described, family in _families(faces, lambda data: data).items():
        folder = out / f"faces-{described}"
        if parts := _face_tables(family, folder, console, tables, tie):
            written.append(_save(folder, parts))
    if "bias" in tables:
        for described, family in _families(faces, lambda data: data | {"bias": None}).items():
            if parts := _bias_table(family, out / f"bias-{described}", console):
                written.append(_save(out / f"bias-{described}", parts))
    if "2" in tables and digits:
        for described, family in _families(digits, lambda data: data, by_backbone=False).items():
            written.append(_save(out / f"digits-{described}", [_digit_table(family, console)]))
    return written


def _save(folder: Path, parts: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


def _families(
    records: Sequence[Record], describe: Callable[[dict], dict], *, by_backbone: bool = True
) -> dict[str, list[Record]]:
    """Records that belong in one table, by a name for its folder. Which auxiliary faces a row had is said by its name."""
    found: dict[Hashable, list[Record]] = {}
    for record in records:
        settings = record["key"]["settings"]
        data = describe({name: value for name, value in record["key"]["data"].items() if name not in ("label", "auxiliary")})
        family = (
            settings["backbone"] if by_backbone else "all",
            *(settings[name] for name in ("steps", "batch_size", "lr")),
            json.dumps([settings.get(name) for name in ("recipe", "network_options")], sort_keys=True),
            json.dumps(data, sort_keys=True),
        )
        found.setdefault(family, []).append(record)
    named: dict[str, list[Record]] = {}
    for (backbone, steps, *_, data), family in found.items():
        bias = json.loads(data).get("bias")
        name = "-".join(
            str(part)
            for part in (backbone.replace(":", "."), None if bias is None else f"bias-{bias}", f"{steps}-steps")
            if part
        )
        while name in named:
            name += "-other"  # the same but for batch size, rate or image size
        named[name] = family
    return named


def _face_tables(records: list[Record], folder: Path, console: Console, tables: Sequence[str], tie: float) -> list[str]:
    rows = {record["key"]["row"] for record in records}
    extractor = records[0]["key"]["settings"]["backbone"]
    parts = []
    for number, wanted in (("1", rows - {SMILING}), ("3", rows & {BASELINE, DEFAULT, SMILING})):
        if number not in tables or (number == "3" and SMILING not in rows) or (number == "1" and rows <= {BASELINE, SMILING}):
            continue
        chosen = [record for record in records if record["key"]["row"] in wanted]
        published = {
            _our_pair(pair, chosen): cells
            for pair, cells in paper.faces(extractor, tuple(FACE_NAMES[row] for row in FACE_NAMES if row in wanted)).items()
        }
        title = f"Table {'I' * int(number)} analogue, {_described(chosen)}"
        cross = cross_table.cross_table(chosen, tie=tie)
        console.print(cross_table.turned(title, cross_table.lines(cross)))
        parts.append(f"{title}. {_whose(extractor)}\n\n{cross_table.markdown(cross_table.lines(cross, published))}")
    if "1" not in tables:
        return parts
    for name in dict.fromkeys(record["key"]["task"] for record in records):
        own = [_own_sets(record) for record in records if record["key"]["task"] == name]
        summary = report.summarise(own)
        console.print(report.terminal_table(f"{name}, own people", summary))
        parts.append(f"{name}, own people\n\n{report.markdown_table(summary)}")
        figures.accuracy_bars(summary, f"{name}, own people ({extractor})", folder / f"accuracy-{name}.png")
        figures.component_shares(own, f"{name} ({extractor})", folder / f"components-{name}.png")
    return parts


def _bias_table(records: list[Record], folder: Path, console: Console) -> list[str]:
    """Accuracy on unbiased faces of each set against its bias; nothing where there is one bias alone."""
    biases = sorted({record["key"]["data"]["bias"] for record in records if record["key"]["data"].get("bias") is not None})
    if len(biases) < 2:
        return []
    parts = []
    for name in dict.fromkeys(record["key"]["task"] for record in records):
        by_bias = {}
        for bias in biases:
            mine = [record for record in records if (record["key"]["task"], record["key"]["data"]["bias"]) == (name, bias)]
            if mine:
                by_bias[bias] = report.summarise([_own_sets(record) for record in mine])
        figures.accuracy_over(
            by_bias, "unbiased", "bias of hair colour with expression", folder / f"bias-{name}.png", title=name
        )
        methods = list(dict.fromkeys(row.method for rows in by_bias.values() for row in rows))
        cells = {bias: {row.method: f"{row.accuracy['unbiased']}" for row in rows} for bias, rows in by_bias.items()}
        table = [
            ["bias", *methods],
            *([str(bias), *(row.get(method, "") for method in methods)] for bias, row in cells.items()),
        ]
        title = f"{name}, accuracy on faces with hair at random, {_described(records)}"
        console.print(cross_table.upright(title, table))
        parts.append(f"{title}\n\n{cross_table.markdown(table)}")
    return parts


def _digit_table(records: list[Record], console: Console) -> str:
    """Table II: a row per test set and backbone."""
    methods = [row for row in DIGIT_NAMES if any(record["key"]["row"] == row for record in records)]
    header = [
        "train → test",
        "extractor",
        *methods,
        *(f"paper: {name}" for name in DIGIT_NAMES.values()),
    ]
    lines = [header]
    for task in dict.fromkeys(record["key"]["task"] for record in records):
        of_task = [record for record in records if record["key"]["task"] == task]
        for test in [name for name in of_task[0]["accuracy"] if name not in ("validation", "clean")]:
            for backbone in dict.fromkeys(record["key"]["settings"]["backbone"] for record in of_task):
                mine = [record for record in of_task if record["key"]["settings"]["backbone"] == backbone]
                found = {row.method: row.accuracy[test] for row in report.summarise(mine)}
                theirs = "MNIST-M" if task == "photo" else DIGIT_TESTS.get(test.lower())
                published = paper.digits(theirs, backbone) if theirs else {}
                cells = [str(found[row]) if row in found else "" for row in methods]
                given = [f"{published[name]:.1f}" if name in published else "" for name in DIGIT_NAMES.values()]
                lines.append([f"{task} → {test}", backbone, *cells, *given])
    title = f"Table II analogue, {_described(records)}"
    console.print(cross_table.upright(title, lines))
    backbone = records[0]["key"]["settings"]["backbone"]
    return f"{title}. {_whose(backbone, 'seven')}\n\n{cross_table.markdown(lines)}"


def _picture_table(records: list[Record], folder: Path, console: Console) -> str:
    """Pictures with a nuisance: a row per method."""
    settings = records[0]["key"]["settings"]
    title = f"pictures ({settings['backbone']}, bias {records[0]['key']['data']['bias']}, {settings['steps']} steps)"
    summary = report.summarise(records)
    console.print(report.terminal_table(title, summary))
    figures.accuracy_bars(summary, title, folder / "accuracy.png")
    return f"{title}\n\n{report.markdown_table(summary)}"


def _described(records: Sequence[Record]) -> str:
    """What the runs were, for a title."""
    key = records[0]["key"]
    data = key["data"]
    settings = key["settings"]
    seeds = {record["key"]["settings"]["seed"] for record in records}
    biases = {record["key"]["data"].get("bias") for record in records}
    real = data.get("folders") or (data.get("real") or {}).get("train")
    parts = ["real data" if real else "embedded data, not the paper's"]
    parts += [f"bias {next(iter(biases))}"] if len(biases) == 1 and not real and next(iter(biases)) is not None else []
    backbones = list(dict.fromkeys(record["key"]["settings"]["backbone"] for record in records))
    return ", ".join([*parts, " and ".join(backbones), f"{settings['steps']} steps", f"{len(seeds)} seeds"])


def _whose(extractor: str, count: str = "three") -> str:
    known = extractor in ("alexnet", "resnet34", "vgg19") if count == "three" else False
    of = f"with {extractor}" if known else f"averages over its {count} networks where it lacks this one"
    return f'Columns headed "paper" are the paper\'s own, on its own data, {of}: for scale, not for comparison.'


def _our_pair(pair: str, records: Sequence[Record]) -> str:
    """A pair of the paper in the names of these records: `ck+ → mmi` is `ck-like → mmi-like` on the embedded faces."""
    embedded = any(record["key"]["task"].endswith("-like") for record in records)
    return " → ".join(f"{name.removesuffix('+')}-like" for name in pair.split(" → ")) if embedded else pair


def _own_sets(record: Record) -> Record:
    own = {name: value for name, value in record["accuracy"].items() if name in ("within", "unbiased")}
    return record | {"accuracy": own}


def write_accuracies(records: Sequence[Mapping], path: Path) -> None:
    """A CSV file with one line per run and test set."""
    columns = ("task", "row", "backbone", "steps", "seed", "bias", "label", "auxiliary", "test", "accuracy")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for record in records:
            key = record["key"]
            known = {**key, **key["settings"], **key["data"]}
            for test, accuracy in record["accuracy"].items():
                writer.writerow([*(known.get(name, "") for name in columns[:-2]), test, accuracy])
