"""From stored runs to the paper's tables, as Markdown and figures: the end of `fer.py`, the whole of `report.py`."""

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from scipy import stats

from . import figures, paper, report, tables
from .report import BASELINE, DEFAULT, estimate
from .results import Record, accuracies, described, grouped, write_accuracies

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
#: Difference of means, in points, below which a pair of sets counts as tied.
TIE = 0.05
#: Test sets of a record that are no other data set.
OWN = ("validation", "oracle", "within", "unbiased")


def write(records: Sequence[Record], out: Path, console: Console, *, wanted: Sequence[str] = TABLES) -> list[Path]:
    """Print the tables that the records hold; write them as Markdown, with figures, and all accuracies as one tidy CSV file.

    Args:
        records: runs that read the test sets, of any tasks, methods, seeds, biases and networks.
        out: folder; one below it per network, bias and length of run.
        console: where to print.
        wanted: which of `TABLES`; pictures have a table of their own in any case.

    Returns:
        The reports written.
    """
    write_accuracies(records, out / "accuracy.csv")
    kinds: dict[str, list[Record]] = {"faces": [], "pictures": [], "digits": []}
    for record in records:
        data = record["key"]["data"]
        kinds["faces" if "label" in data else "pictures" if "pictures" in data else "digits"].append(record)
    parts: dict[Path, list[str]] = {}
    for name, family in _families(kinds["pictures"]):
        folder = out / f"pictures-{name}"
        parts[folder] = [_picture_table(family, folder, console)]
    for name, family in _families(kinds["faces"]):
        folder = out / f"faces-{name}"
        parts[folder] = _face_tables(family, folder, console, wanted)
    for name, family in _families(kinds["faces"], but_for="bias") if "bias" in wanted else ():
        folder = out / f"bias-{name}"
        parts[folder] = _bias_table(family, folder, console)
    for name, family in _families(kinds["digits"], but_for="backbone") if "2" in wanted else ():
        parts[out / f"digits-{name}"] = [_digit_table(family, console)]
    written = [folder / "report.md" for folder, texts in parts.items() if texts]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(parts[path.parent]) + "\n", encoding="utf-8")
    return written


def _families(records: Sequence[Record], *, but_for: str = "") -> Iterator[tuple[str, list[Record]]]:
    """Records that belong in one table, which may differ in one thing, with a name for its folder.

    Which auxiliary faces a row had is said by its name.
    """
    found: dict[Hashable, list[Record]] = {}
    for record in records:
        known = {"bias": None, **described(record), but_for: None}
        data = {name: known[name] for name in record["key"]["data"] if name not in ("label", "auxiliary")}
        of_run = [known.get(name) for name in ("steps", "batch_size", "lr", "recipe", "network_options")]
        family = known["backbone"] or "all", known["bias"], known["steps"], json.dumps([of_run, data], sort_keys=True)
        found.setdefault(family, []).append(record)
    taken: set[str] = set()
    for (backbone, bias, steps, _), family in found.items():
        of_bias = () if bias is None else (f"bias-{bias}",)
        name = "-".join([backbone.replace(":", "."), *of_bias, f"{steps}-steps"])
        while name in taken:
            name += "-other"  # the same but for batch size, rate or image size
        taken.add(name)
        yield name, family


def _face_tables(records: list[Record], folder: Path, console: Console, wanted: Sequence[str]) -> list[str]:
    by_row = grouped(records, "row")
    extractor = described(records[0])["backbone"]
    parts = []
    chosen = {"1": by_row.keys() - {SMILING}, "3": by_row.keys() & {BASELINE, DEFAULT, SMILING}}
    for number, rows in chosen.items():
        if number not in wanted or (number == "3" and SMILING not in rows) or (number == "1" and rows <= {BASELINE}):
            continue
        shown = [record for record in records if record["key"]["row"] in rows]
        theirs = paper.faces(extractor, [FACE_NAMES[row] for row in FACE_NAMES if row in rows])
        published = {_our_pair(pair, shown): cells for pair, cells in theirs.items()}
        title = f"Table {'I' * int(number)} analogue, {_described(shown)}"
        console.print(tables.turned(title, cross_lines(shown)))
        parts.append(f"{title}. {_whose(extractor)}\n\n{tables.markdown(cross_lines(shown, published))}")
    if "1" not in wanted:
        return parts
    for name, runs in grouped(map(_own_sets, records), "task").items():
        parts.append(_summary(f"{name}, own people", runs, console))
        summary = report.summarise(runs)
        figures.accuracy_bars(summary, f"{name}, own people ({extractor})", folder / f"accuracy-{name}.png")
        figures.component_shares(runs, f"{name} ({extractor})", folder / f"components-{name}.png")
    return parts


def _summary(title: str, records: Sequence[Record], console: Console) -> str:
    """A row per method, printed and as Markdown."""
    summary = report.summarise(records)
    console.print(report.terminal_table(title, summary))
    return f"{title}\n\n{report.markdown_table(summary)}"


def _bias_table(records: list[Record], folder: Path, console: Console) -> list[str]:
    """Accuracy on unbiased faces of each set against its bias; nothing where there is one bias alone."""
    biases = sorted({record["key"]["data"]["bias"] for record in records if record["key"]["data"].get("bias") is not None})
    if len(biases) < 2:
        return []
    parts = []
    for name, runs in grouped(map(_own_sets, records), "task").items():
        at_bias = grouped(runs, "bias")
        by_bias = {bias: report.summarise(at_bias[bias]) for bias in biases if bias in at_bias}
        along = "bias of hair colour with expression"
        figures.accuracy_over(by_bias, along, name, folder / f"bias-{name}.png")
        cells = pd.DataFrame([{row.method: str(row.accuracy["unbiased"]) for row in rows} for rows in by_bias.values()])
        lines = [["bias", *cells], *([str(bias), *row] for bias, row in zip(by_bias, cells.fillna("").values, strict=True))]
        title = f"{name}, accuracy on faces with hair at random, {_described(records)}"
        parts.append(_printed(title, lines, console))
    return parts


def _printed(title: str, lines: tables.Lines, console: Console, said: str = "") -> str:
    """A table, printed and as Markdown, where more is said below its title."""
    console.print(tables.upright(title, lines))
    return f"{title}{said}\n\n{tables.markdown(lines)}"


def _digit_table(records: list[Record], console: Console) -> str:
    """Table II: a row per test set and backbone."""
    methods = [row for row in DIGIT_NAMES if row in grouped(records, "row")]
    lines = [["train → test", "extractor", *methods, *(f"paper: {name}" for name in DIGIT_NAMES.values())]]
    backbones = list(grouped(records, "backbone"))
    for task, of_task in grouped(records, "task").items():
        by_backbone = grouped(of_task, "backbone")
        for test in [name for name in of_task[0]["accuracy"] if name not in ("validation", "clean")]:
            for backbone in [name for name in backbones if name in by_backbone]:
                found = {row.method: str(row.accuracy[test]) for row in report.summarise(by_backbone[backbone])}
                theirs = "MNIST-M" if task == "photo" else DIGIT_TESTS.get(test.lower())
                published = paper.digits(theirs, backbone) if theirs else {}
                given = [f"{published[name]:.1f}" if name in published else "" for name in DIGIT_NAMES.values()]
                lines.append([f"{task} → {test}", backbone, *(found.get(row, "") for row in methods), *given])
    said = _whose(described(records[0])["backbone"], "seven")
    return _printed(f"Table II analogue, {_described(records)}", lines, console, f". {said}")


def _picture_table(records: list[Record], folder: Path, console: Console) -> str:
    """Pictures with a nuisance: a row per method."""
    known = described(records[0])
    title = f"pictures ({known['backbone']}, bias {known['bias']}, {known['steps']} steps)"
    figures.accuracy_bars(report.summarise(records), title, folder / "accuracy.png")
    return _summary(title, records, console)


def _described(records: Sequence[Record]) -> str:
    """What the runs were, for a title."""
    known = described(records[0])
    biases = [bias for bias in grouped(records, "bias") if bias is not None]
    real = known.get("folders") or (known.get("real") or {}).get("train")
    parts = ["real data" if real else "embedded data, not the paper's"]
    parts += [f"bias {biases[0]}"] if len(grouped(records, "bias")) == len(biases) == 1 and not real else []
    backbones = " and ".join(grouped(records, "backbone"))
    return ", ".join([*parts, backbones, f"{known['steps']} steps", f"{len(grouped(records, 'seed'))} seeds"])


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


def cross_lines(records: Sequence[Record], published: Mapping[str, Mapping[str, float]] | None = None) -> list[list[str]]:
    """The table of all pairs that the records hold as rows of text, a header first.

    Args:
        records: runs that read the test sets; the training set is the task's name.
        published: the paper's own figures by pair and method, for columns of their own.
    """
    found = accuracies(records)
    found = found[~found["test"].isin(OWN)]
    found["pair"] = found["task"] + " → " + found["test"]
    runs = found.groupby(["pair", "row", "seed"], sort=False)["accuracy"].last()
    pairs, methods = list(dict.fromkeys(found["pair"])), list(dict.fromkeys(found["row"]))
    cells = runs.groupby(level=["pair", "row"]).apply(estimate).unstack("row").reindex(pairs, columns=methods)
    averages = {name: runs.xs(name, level="row").unstack("pair").dropna().mean(axis=1) for name in methods}
    counts, p_values = zip(*(_verdict(cells, averages, name) for name in methods), strict=True)
    theirs = pd.DataFrame(published or {}).T.reindex(pairs)
    lines = [["train → test", *methods, *(f"paper: {name}" for name in theirs)]]
    for pair, row in cells.iterrows():
        given = ["" if np.isnan(value) else f"{value:.1f}" for value in theirs.loc[pair]]
        lines.append([pair, *row.fillna("").map(str), *given])
    blank = [""] * len(theirs.columns)
    return [
        *lines,
        ["average", *(str(estimate(values)) for values in averages.values()), *blank],
        ["won/tied/lost", *counts, *blank],
        ["p, paired t over seeds", *p_values, *blank],
    ]


def _verdict(cells: pd.DataFrame, averages: Mapping[str, pd.Series], method: str) -> tuple[str, str]:
    """Pairs won, tied and lost by mean beside plain training, and the p value of a paired t test over the seeds' averages.

    There is no p value for fewer than two seeds, or where the gains are equal in all.
    """
    if method == BASELINE or BASELINE not in averages:
        return "", ""
    means = cells[[BASELINE, method]].dropna().map(lambda cell: cell.mean)
    gains = means[method] - means[BASELINE]
    won, lost = sum(gains > TIE), sum(gains < -TIE)
    paired = (averages[method] - averages[BASELINE]).dropna()
    shown = ""
    if len(paired) > 1 and np.ptp(paired) > 1e-6:
        p_value = stats.ttest_1samp(paired, 0.0).pvalue
        shown = "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
    return f"{won}/{len(gains) - won - lost}/{lost}", shown
