"""The label audit as a command: ``python -m wdpurify.audit --help``."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wdpurify._torch import derive_seed, private_randomness

from ._audit import audit
from ._backbone import open_model
from ._command import options, print_anything, refusals, text
from ._files import check_folder, whole, write_whole
from ._optional import optional
from ._report import Audit
from ._sources import open_source


@dataclass(frozen=True)
class Arguments:
    """Which label of an auxiliary data set is fit to purify of.

    A source is a hub id (`id` or `id:config`), a folder (of `save_to_disk`, or of images, parquet or csv files) or a file
    (.parquet, .csv, .json); `#name` behind it names a split.

    Attributes:
        task: source of task rows; the split "train" if none is named.
        columns: label columns of the auxiliary rows to audit.
        auxiliary: source of auxiliary rows; the split "train" if none is named. Without it, the task's own rows.
        task_label: column of the task label.
        evaluation: source of evaluation rows from another collection; the split "test" if none is named.
        image_column: column of images, in every source.
        backbone: name of a timm model; or `package.module:callable`, which is imported and called and returns a torch module.
        backbone_options: `key=value` for the callable, or for timm's create_model.
        weights: file of the backbone's state dict, of torch or safetensors, in place of published weights.
        pretrained: load a timm model's published weights.
        layer: name of the layer whose input is the features; by default the classifier is found.
        image_size: pixels; by default what the backbone was made for.
        repeats: trainings per label, and as many controls.
        steps: optimiser steps per training.
        batch_size: rows per step.
        lr: highest learning rate.
        permutations: for the leakage.
        margin: largest gain, as a share of 1, that still counts as none.
        max_rows: rows used of each source.
        device: where to run, for example cuda.
        seed: of everything drawn.
        out: folder for audit.html, audit.md, audit.json and audit.png.
    """

    task: str
    columns: tuple[str, ...]
    auxiliary: str | None = None
    task_label: str = "label"
    evaluation: str | None = None
    image_column: str = "image"
    backbone: str = "resnet18.a1_in1k"
    backbone_options: tuple[str, ...] = ()
    weights: Path | None = None
    pretrained: bool = True
    layer: str | None = None
    image_size: int | None = None
    repeats: int = 4
    steps: int = 200
    batch_size: int = 64
    lr: float = 3e-4
    permutations: int = 100
    margin: float = 0.05
    max_rows: int = 2000
    device: str = "cpu"
    seed: int = 0
    out: Path | None = None


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    given = sys.argv[1:] if arguments is None else arguments
    print_anything()
    chosen = optional("tyro", "the command").cli(Arguments, args=given, prog="python -m wdpurify.audit")
    names = {"task_label": text(chosen.task_label), "image_column": text(chosen.image_column)}
    chosen = replace(chosen, columns=tuple(map(text, chosen.columns)), **names)
    with refusals("wdpurify.audit"):
        if chosen.out is not None:
            check_folder(chosen.out)
    with refusals("wdpurify.audit"), optional("rich.progress", "the command").Progress(transient=True) as bar:
        trainings = bar.add_task("trainings", total=None)
        found = run(chosen, lambda done, total: bar.update(trainings, completed=done, total=total))
    found.print()
    if chosen.out is not None:
        command = text(shlex.join(["python", "-m", "wdpurify.audit", *given]))
        with refusals("wdpurify.audit"):
            write_whole(chosen.out / "audit.html", found.html(command))
            write_whole(chosen.out / "audit.md", found.markdown())
            write_whole(chosen.out / "audit.json", found.json())
            with whole(chosen.out / "audit.png") as unfinished:
                found.plot(unfinished)


def run(chosen: Arguments, progress: Callable[[int, int], None]) -> Audit:
    """Run the audit of the arguments."""
    with private_randomness(torch.device("cpu"), derive_seed(chosen.seed, "audit")):
        model = open_model(
            chosen.backbone, pretrained=chosen.pretrained, weights=chosen.weights, options=options(chosen.backbone_options)
        )
    return audit(
        model,
        open_source(chosen.task, "train"),
        None if chosen.auxiliary is None else open_source(chosen.auxiliary, "train"),
        chosen.columns,
        label=chosen.task_label,
        evaluation=None if chosen.evaluation is None else open_source(chosen.evaluation, "test"),
        image=chosen.image_column,
        image_size=chosen.image_size,
        layer=chosen.layer,
        repeats=chosen.repeats,
        steps=chosen.steps,
        batch_size=chosen.batch_size,
        lr=chosen.lr,
        permutations=chosen.permutations,
        margin=chosen.margin,
        max_rows=chosen.max_rows,
        device=chosen.device,
        seed=chosen.seed,
        progress=progress,
    )


if __name__ == "__main__":
    main()
