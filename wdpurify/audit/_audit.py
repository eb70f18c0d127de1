"""Audits label columns: leakage, transfer, association and size of each, and a verdict."""

import contextlib
import itertools
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify._checks import check_not_negative, check_positive_integer
from wdpurify._rows import Collator
from wdpurify._torch import derive_seed, private_randomness

from ._association import associate
from ._backbone import Backbone
from ._columns import codes_of, cut, describe_column
from ._extractor import Extractor
from ._leakage import decoded, drawn
from ._report import Audit, ranked
from ._sources import Table, read_table
from ._transfer import Plan, Rows, transfer
from ._verdict import VERDICTS, ColumnAudit, judge

SEPARATE = "Transfer was evaluated on separate data."
WITHIN = (
    "Transfer was evaluated across folds of the task rows, weighted so that the label as predicted there does not go with the "
    "task label. A label that goes with the task label in the task rows can look relevant, or irrelevant, by this alone: give "
    "`evaluation` data of another collection for a verdict on it."
)


def audit(
    model: nn.Module | str,
    task: Any,
    auxiliary: Any,
    columns: Sequence[str],
    *,
    label: str = "label",
    evaluation: Any = None,
    image: str = "image",
    image_size: int | None = None,
    transform: Callable[[Any], Any] | None = None,
    collate_fn: Collator | None = None,
    layer: str | None = None,
    features: Callable[[Any, Any], Tensor] | None = None,
    pretrained: bool = True,
    repeats: int = 4,
    steps: int = 200,
    batch_size: int = 64,
    lr: float = 1e-3,
    permutations: int = 100,
    margin: float = 0.05,
    max_rows: int = 2000,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Which label columns of auxiliary data are fit to purify of, the best first.

    Sources are ``(rows, labels)``, ``(rows, {"name": cells})``, a data frame, a Hugging Face ``Dataset`` or a map-style
    data set whose rows are mappings. Pandas rows are read by position. Rows are what :class:`wdpurify.GroupSampler` takes, such
    as vectors, texts, data sets or images; bytes and pictures become floats in [0, 1].

    Copies of the extractor are trained on each label and, as a control, on its shuffled values; a linear probe of the task
    then says which features serve the task better. Model, global random state and data stay as they are. On a CPU the result
    depends on ``seed`` alone; GPU kernels may round differently between runs.

    Args:
        model: as you would train it, before or after training on the task; or the name of a timm backbone.
        task: task rows with their label.
        auxiliary: rows with the label columns; None for columns of the task's own rows.
        columns: names of the columns to audit. A column of numbers, such as an age, is cut into four ranges.
        label: name of the task label's column.
        evaluation: rows of another collection with the task label, in which the label does not go with the task label as in
            ``task``. Without them the verdict on such a label is at best "doubtful".
        image: name of the column that the model reads, such as "image" or "text".
        image_size: images are resized to this; None leaves them, or takes the size of a backbone given by name.
        transform: prepares one item, as your model reads it.
        collate_fn: makes a batch of a list of items, such as texts.
        layer: name of the layer whose input is the features; None finds the classifier.
        features: ``features(model, batch)`` in place of ``layer``.
        pretrained: of a backbone given by name.
        repeats: trainings on each label, and as many controls; at least 2.
        steps: optimiser steps of each training.
        batch_size: rows per step.
        lr: highest learning rate (AdamW); lower it to 1e-4 for large pretrained models.
        permutations: of the leakage's baseline.
        margin: largest gain of balanced accuracy, in [0, 1], that still counts as none.
        max_rows: of more rows of a source, so many are drawn. All of them are held in memory.
        device: where to run; None stays with the model.
        seed: of everything drawn.
        progress: called as ``progress(done, total)`` after each training, which is where the time goes.

    Raises:
        ValueError: for missing columns, lengths that differ, a task label with one class or fewer than ten rows in a class,
            or a backbone that timm does not know or whose published weights are out of reach.
        TypeError: for sources or images of another kind.
        ImportError: if a library that is needed is missing, with the command that installs it.

    Source: Li et al. 2021, arXiv:2102.10955, Sec. II: the more negative the transfer, the more irrelevant the label.
    """
    numbers = {"steps": steps, "batch_size": batch_size, "permutations": permutations, "max_rows": max_rows}
    for name, number in numbers.items():
        check_positive_integer(name, number)
    if check_positive_integer("repeats", repeats) < 2:
        raise ValueError(f"`repeats` must be at least 2 for an interval, got {repeats}")
    check_not_negative("lr", lr)
    check_not_negative("margin", margin)
    if isinstance(columns, str) or not columns:
        raise ValueError(f"`columns` must be a list of column names, got {columns!r}")
    done = itertools.count(1)
    total = 2 * repeats * len(columns)
    plan = Plan(repeats, steps, batch_size, lr, seed, lambda: progress and progress(next(done), total))
    place = torch.device(device) if device is not None else torch.device("cpu")
    with private_randomness(place, derive_seed(seed, "audit")):
        if isinstance(model, str):
            model = Backbone(model, pretrained=pretrained)
        if isinstance(model, Backbone):
            image_size = image_size or model.image_size
        extractor = Extractor(model, layer=layer, features=features, device=device)
        options: dict[str, Any] = {"image": image, "image_size": image_size, "transform": transform, "collate_fn": collate_fn}
        options |= {"max_rows": max_rows, "seed": seed}
        own_rows = auxiliary is None
        rows = read_table("task" if own_rows else "auxiliary", task if own_rows else auxiliary, columns, **options)
        own = read_table("task", task, [label], optional_columns=columns, **options)
        other = None if evaluation is None else read_table("evaluation", evaluation, [label], **options)
        task_rows, judged, classes = _task_rows(own, other, label)
        shapes = {table.inputs.shape for table in (rows, own, other) if table is not None}
        if len(shapes) > 1:
            came = ", ".join(sorted(map(str, shapes)))
            raise ValueError(f"all sources must have rows of one shape, got {came}. Set `image_size` for images")
        found = [
            _audited(name, rows, own, task_rows, judged, classes, extractor, plan, permutations, margin, own_rows)
            for name in columns
        ]
    settings: dict[str, Any] = numbers | {"repeats": repeats, "lr": lr, "margin": margin, "seed": seed}
    settings |= {"task rows": len(own.inputs), "auxiliary rows": len(rows.inputs)}
    settings["evaluation rows"] = 0 if other is None else len(other.inputs)
    settings |= {
        "images": " x ".join(map(str, own.inputs.shape or ("of several kinds",))),
        "layer": layer,
        "device": str(extractor.device),
    }
    settings["model"] = model.name if isinstance(model, Backbone) else type(model).__name__
    evaluated = WITHIN if other is None else SEPARATE
    return Audit(ranked(found, lambda entry: VERDICTS.index(entry.verdict)), evaluated, settings, _versions())


def _versions() -> dict[str, str]:
    """Return the versions of the installed libraries that the numbers depend on."""
    found = {"Python": platform.python_version()}
    for name in ("wdpurify", "torch", "scikit-learn", "scipy", "numpy", "timm"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _task_rows(own: Table, other: Table | None, label: str) -> tuple[Rows, Rows | None, list[str]]:
    column, codes, values = describe_column(label, own.columns[label])
    if column.problem or column.missing or int((codes < 0).sum()):
        why = column.problem or "; ".join(column.warnings)
        raise ValueError(f"`task` must label every row, with ten rows or more per class, in {label!r}, got: {why}")
    classes = [str(value) for value in values]
    if other is None:
        return Rows(own.inputs, codes), None, classes
    found = codes_of(other.columns[label], values)
    if unknown := sorted({str(cell) for cell, code in zip(other.columns[label], found.tolist(), strict=True) if code < 0}):
        raise ValueError(
            f"`evaluation` must have task classes that `task` has ({', '.join(classes)}), got {', '.join(unknown)}"
        )
    return Rows(own.inputs, codes), Rows(other.inputs, found), classes


def _audited(
    name: str,
    rows: Table,
    own: Table,
    task: Rows,
    evaluation: Rows | None,
    classes: list[str],
    extractor: Extractor,
    plan: Plan,
    permutations: int,
    margin: float,
    own_rows: bool,
) -> ColumnAudit:
    known = name in own.columns
    mine = [] if own_rows or not known else own.columns[name]
    cells = cut([*rows.columns[name], *mine], f"the column {name!r}")
    auxiliary, mine = cells[: len(rows.inputs)], cells if own_rows else cells[len(rows.inputs) :]
    column, codes, values = describe_column(name, auxiliary)
    if column.problem:
        return ColumnAudit(column, "do not use", column.problem, None, None, None)
    labelled = codes >= 0
    inputs = rows.inputs.part(labelled)
    codes = codes[labelled]
    measured, guessed = transfer(extractor, inputs, codes, task, evaluation, plan)
    chosen = drawn(torch.arange(len(codes)), 1000, plan.seed)
    leak = decoded(extractor.all_features(inputs.part(chosen)), codes[chosen], permutations=permutations, seed=plan.seed)
    if known:
        counted = codes_of(mine, values)
        known = bool((counted >= 0).any())
        guessed = counted if known else guessed
        if not known:
            others = ", ".join(sorted({str(cell) for cell in mine})[:5])
            warning = f"the task rows have other values ({others}), so the predicted ones count. Name the values alike"
            column = replace(column, warnings=(*column.warnings, warning))
    association = associate(task.labels, guessed, classes, [str(value) for value in values], known=known)
    verdict, reason = judge(measured, leak, association, margin, own_rows=own_rows)
    return ColumnAudit(column, verdict, reason, measured, leak, association)
