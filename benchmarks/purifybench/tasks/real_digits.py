"""Digits from data that `datasets.load_dataset` opens: train on one source, test on others, as in the paper's Table II."""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class RealData:
    """Data to use in place of the embedded digits: hub ids (`id` or `id:config`) or local folders and parquet files.

    Attributes:
        train: task data with a train and a test split.
        test: shifted test sets; the last one is the shifted test of the table.
        aux: auxiliary images.
        blend_photos: the auxiliary images are photographs, to be blended with unseen training digits.
        image_column: name of the image column.
        label_column: name of the digit column.
        group_column: column of `aux` with the irrelevant label; by default the groups are train and aux.
        rows: training rows.
    """

    train: str | None = None
    test: tuple[str, ...] = ()
    aux: str | None = None
    blend_photos: bool = False
    image_column: str = "image"
    label_column: str = "label"
    group_column: str | None = None
    rows: int = 20_000


def build(*, seed: int, real: RealData, image_size: int = 32) -> Task:
    """Rows of `train` as task data, other rows of it and those of `aux` as auxiliary data.

    The clean test is the test split of `train`, the shifted tests are those of `test`; of `aux` the train split is taken.
    Without a `group_column` its group is "aux", and as many unseen rows of `train` are the group "train". Photographs are
    blended with unseen digits of `train` by their crops (MNIST-M). The paper has 20,000 training rows.

    Args:
        seed: which rows.
        real: which data.
        image_size: pixels.
    """
    assert real.train is not None
    assert real.aux is not None
    train, image_column, label_column, rows = real.train, real.image_column, real.label_column, real.rows
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
    columns = (image_column,) if real.group_column is None or real.blend_photos else (image_column, real.group_column)
    other = open_source(real.aux, "train", columns)
    if real.blend_photos:
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
    if real.group_column in columns:
        groups = list(other[real.group_column])
        auxiliary = Auxiliary(seen, groups, fixed=groups[0])
    else:
        groups = ["train"] * len(plain) + ["aux"] * len(seen)
        auxiliary = Auxiliary(torch.cat([plain, seen]), groups, fixed="train")
    tests = {"clean": part(open_source(train, "test", (image_column, label_column), only=True))}
    for name in real.test:
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
    if missing := [column for column in columns if column not in chosen.column_names]:
        there = f"it has {', '.join(chosen.column_names)}: set --image-column, --label-column or --group-column"
        raise ValueError(f"{source} has no column {missing[0]!r}; {there}")
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
