"""Digits from data that `datasets.load_dataset` opens: train on one source, test on others, as in the paper's Table II."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from purifybench.sources import splits_of
from torch import Tensor

from ._types import Auxiliary, Split, Task
from .photo import blend, crops

VALIDATION_ROWS = 2000
AUXILIARY_ROWS = 10_000


def build(
    *,
    train: str,
    test: Sequence[str],
    aux: str,
    seed: int,
    blend_photos: bool = False,
    image_column: str = "image",
    label_column: str = "label",
    group_column: str | None = None,
    rows: int = 20_000,
    image_size: int = 32,
) -> Task:
    """Rows of `train` as task data, other rows of it and those of `aux` as auxiliary data.

    Args:
        train: source of the task data, see :func:`open_source`; its test split is the clean test.
        test: sources of shifted tests; of each the test split.
        aux: source of auxiliary images; of it the train split. Without `group_column` their group is "aux", and as many
            unseen rows of `train` are the group "train".
        seed: which rows.
        blend_photos: the auxiliary images are photographs: blend unseen digits of `train` with their crops (MNIST-M).
        image_column, label_column: names in every source; a source without them is named in the error.
        group_column: column of `aux` with the irrelevant label, if it has one.
        rows: training rows (20,000 in the paper).
        image_size: pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    source = open_source(train, "train", (image_column, label_column))
    order = torch.randperm(len(source), generator=generator).tolist()
    needed = rows + VALIDATION_ROWS + AUXILIARY_ROWS // 2
    if len(order) < needed:
        raise ValueError(f"`train` must have {needed} rows for `rows` {rows}, got {len(order)} in {train}: lower `rows`")

    def images(chosen: datasets.Dataset) -> Tensor:
        return torch.stack([_as_tensor(image, image_size) for image in chosen[image_column]])

    def part(chosen: datasets.Dataset) -> Split:
        return Split(images(chosen), torch.tensor(chosen[label_column]))

    plain = images(source.select(order[rows + VALIDATION_ROWS : needed]))
    validation = part(source.select(order[rows : rows + VALIDATION_ROWS]))
    upper = oracle = None
    training = part(source.select(order[:rows]))
    columns = (image_column,) if group_column is None or blend_photos else (image_column, group_column)
    other = open_source(aux, "train", columns)
    if blend_photos:
        photos = [_as_tensor(image, None) for image in other[image_column]]

        def blended(images: Tensor) -> Tensor:
            ink = images.float().mean(1) / 255.0
            return blend(ink, crops(photos, len(images), image_size, generator), threshold=1 / 255)

        seen = blended(plain)
        upper = Split(blended(training.images), training.labels)
        oracle = Split(blended(validation.images), validation.labels)
    else:
        other = other.select(torch.randperm(len(other), generator=generator)[: AUXILIARY_ROWS // 2].tolist())
        seen = images(other)
    if group_column in columns:
        groups = list(other[group_column])
        auxiliary = Auxiliary(seen, groups, fixed=groups[0])
    else:
        groups = ["train"] * len(plain) + ["aux"] * len(seen)
        auxiliary = Auxiliary(torch.cat([plain, seen]), groups, fixed="train")
    tests = {"clean": part(open_source(train, "test", (image_column, label_column), only=True))}
    for name in test:
        short = Path(name).name.replace("test-00000-of-00001.parquet", Path(name).parent.name)
        if short in (*tests, "validation", "oracle"):
            short = name
        tests[short] = part(open_source(name, "test", (image_column, label_column)))
    return Task(
        name=f"{Path(train).name} to {', '.join(list(tests)[1:])}",
        n_classes=int(training.labels.max()) + 1,
        train=training,
        validation=validation,
        tests=tests,
        auxiliary=auxiliary,
        upper=upper,
        oracle=oracle,
    )


def open_source(source: str, split: str, columns: Sequence[str], *, only: bool = False) -> datasets.Dataset:
    """One split of a hub data set, a local folder, or a local file of rows.

    Args:
        source: ``id``, ``id:config``, a folder (parquet, csv, image folder ...) or a ``.parquet`` file.
        split: wanted split; a source with a single split gives that one.
        columns: columns that must be there.
        only: take no other split in its place.

    Raises:
        ValueError: if the split or a column is missing, with those that there are.
    """
    found = splits_of(source)
    if split not in found and (only or len(found) > 1):
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(found)}")
    chosen = found[split] if split in found else next(iter(found.values()))
    missing = [column for column in columns if column not in chosen.column_names]
    if missing:
        raise ValueError(
            f"{source} has no column {missing[0]!r}; it has {', '.join(chosen.column_names)}: set --image-column, "
            "--label-column or --group-column"
        )
    return chosen


def _as_tensor(image: Image.Image, size: int | None) -> Tensor:
    """RGB bytes ``(3, height, width)``. 28x28 digits first get a black border up to 32, as MNIST-M has them."""
    image = image.convert("RGB")
    if size not in (None, 28) and image.size == (28, 28):
        framed = Image.new("RGB", (32, 32))
        framed.paste(image, (2, 2))
        image = framed
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
