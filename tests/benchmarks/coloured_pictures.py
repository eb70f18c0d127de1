"""Pictures with a class and a nuisance, made here: a parquet file, an image folder, and the task of either."""

import csv

import datasets
import torch
from PIL import Image
from purifybench.tasks import pictures as picture_task
from purifybench.tasks.cells import Sizes

SIZES = Sizes(rows=40, auxiliary_rows=16, validation_rows=16, test_rows=40)
#: Classes are shades and nuisances are colours; a cell has so many rows.
CLASSES = ("dark", "light")
NUISANCES = ("red", "green")
ROWS_PER_CELL = 44


def coloured_rows(nuisances=NUISANCES):
    generator = torch.Generator().manual_seed(0)
    for label in range(len(CLASSES)):
        for group in range(len(nuisances)):
            for _ in range(ROWS_PER_CELL):
                pixels = torch.randint(40, (20, 24, 3), generator=generator) + 60 * label
                pixels[..., group % 3] += 100
                yield Image.fromarray(pixels.to(torch.uint8).numpy()), label, group


def write_parquet(folder):
    """A file with class labels by number and nuisances by name."""
    images, labels, groups = zip(*coloured_rows(), strict=True)
    rows = {"image": list(images), "shade": list(labels), "colour": [NUISANCES[group] for group in groups]}
    found = datasets.Dataset.from_dict(rows).cast_column("shade", datasets.ClassLabel(names=list(CLASSES)))
    path = folder / "train-00000-of-00001.parquet"
    found.to_parquet(path)
    return path


def write_folder(folder):
    """An image folder with both columns in its metadata."""
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "shade", "colour"])
        for number, (image, label, group) in enumerate(coloured_rows()):
            image.save(folder / f"{number}.png")
            writer.writerow([f"{number}.png", CLASSES[label], NUISANCES[group]])
    return folder


def build_pictures(*data, **options):
    """The picture task of such data."""
    given = {"class_column": "shade", "nuisance_column": "colour", "image_size": 16}
    chosen = {name: options.pop(name) for name in picture_task.Pictures.__dataclass_fields__ if name in options}
    pictures = picture_task.Pictures(data=tuple(map(str, data)), **given | chosen)
    return picture_task.build(chosen=pictures, **{"seed": 0, "cache": None, "sizes": SIZES, **options})
