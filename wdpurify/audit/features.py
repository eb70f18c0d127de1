"""A picture of the features of saved networks, as a command: ``python -m wdpurify.audit.features --help``."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from wdpurify._torch import derive_seed, private_randomness

from ._backbone import Backbone, open_model
from ._command import options, pairs, print_anything, refusals, text
from ._feature_map import FeatureMap, Projection, feature_map
from ._files import check_folder, whole
from ._optional import optional
from ._sources import open_source, read_table


@dataclass(frozen=True)
class Arguments:
    """What networks know of a nuisance, as a picture of their features: before and after purifying, for example.

    Attributes:
        rows: source of rows that took no part in training: a hub id (`id` or `id:config`), a folder or a file (.parquet, .csv,
            .json); `#name` behind it names a split, "test" by default.
        nuisance_column: column of the irrelevant label.
        checkpoints: `name=file` for each network, such as `plain=plain.pt purified=purified.safetensors`: files of state dicts.
        backbone: what they are of: name of a timm model, or `package.module:callable`, which is imported and called.
        backbone_options: `key=value` for the callable, or for timm's create_model.
        layer: name of the layer whose input is the features; by default the classifier is found.
        class_column: column of the task label.
        image_column: column of images.
        image_size: pixels; by default what a timm model was made for, otherwise as they are.
        projection: tsne keeps neighbours, pca the directions of largest variance.
        permutations: for the leakage.
        max_rows: rows used.
        device: where to run, for example cuda.
        seed: of everything drawn.
        out: the picture.
    """

    rows: str
    nuisance_column: str
    checkpoints: tuple[str, ...]
    backbone: str
    backbone_options: tuple[str, ...] = ()
    layer: str | None = None
    class_column: str = "label"
    image_column: str = "image"
    image_size: int | None = None
    projection: Projection = "tsne"
    permutations: int = 100
    max_rows: int = 1000
    device: str = "cpu"
    seed: int = 0
    out: Path = Path("features.png")


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    given = sys.argv[1:] if arguments is None else arguments
    print_anything()
    chosen = optional("tyro", "the command").cli(Arguments, args=given, prog="python -m wdpurify.audit.features")
    names = ("class_column", "nuisance_column", "image_column")
    chosen = replace(chosen, **{name: text(getattr(chosen, name)) for name in names})
    with refusals("wdpurify.audit.features"):
        check_folder(chosen.out.parent)
        found = run(chosen)
        with whole(chosen.out) as unfinished:
            found.plot(unfinished)
    console = optional("rich.console", "the command").Console()
    console.print(f"{found}\ndrawn into {chosen.out}", markup=False, highlight=False, soft_wrap=True)


def run(chosen: Arguments) -> FeatureMap:
    """Make the feature map of the arguments."""
    files = pairs("--checkpoints", chosen.checkpoints)
    if not files:
        raise ValueError("--checkpoints needs at least one name=file")
    with private_randomness(torch.device("cpu"), derive_seed(chosen.seed, "features")):
        models: dict[str, nn.Module] = {
            text(name): open_model(chosen.backbone, weights=Path(file), options=options(chosen.backbone_options))
            for name, file in files.items()
        }
    made_for = next((model.image_size for model in models.values() if isinstance(model, Backbone)), None)
    table = read_table(
        "rows",
        open_source(chosen.rows, "test"),
        [chosen.class_column, chosen.nuisance_column],
        image=chosen.image_column,
        image_size=chosen.image_size or made_for,
        max_rows=chosen.max_rows,
        seed=chosen.seed,
    )
    return feature_map(
        models,
        table.inputs[torch.arange(len(table.inputs))],
        table.columns[chosen.class_column],
        table.columns[chosen.nuisance_column],
        class_name=chosen.class_column,
        nuisance_name=chosen.nuisance_column,
        projection=chosen.projection,
        layer=chosen.layer,
        permutations=chosen.permutations,
        max_rows=chosen.max_rows,
        device=chosen.device,
        seed=chosen.seed,
    )


if __name__ == "__main__":
    main()
