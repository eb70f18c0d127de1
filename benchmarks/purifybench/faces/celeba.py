"""CelebA: faces labelled with hair colour and smiling, of which only those drawn are decoded."""

from collections.abc import Hashable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from PIL import Image
from purifybench.sources import splits_of
from torch import Tensor

from .rows import square, wrong_folder

#: Columns of hair colours, not exclusive in CelebA, and what they are called here.
HAIR_COLUMNS = {"Black_Hair": "black", "Blond_Hair": "blond", "Brown_Hair": "brown", "Gray_Hair": "gray"}
COLUMNS = (*HAIR_COLUMNS, "Smiling")
ATTRIBUTES = "list_attr_celeba.txt"
LAYOUT = """
  img_align_celeba/000001.jpg      right in the folder or below celeba/
  list_attr_celeba.txt             number of rows, 40 names, and a line of 1 and -1 per image
or
  data/train-00000-of-00019.parquet      columns image, Black_Hair, Blond_Hair, Brown_Hair, Gray_Hair, Smiling
"""


def auxiliary_faces(folder: Path, *, label: str, rows: int, seed: int, size: int) -> tuple[Tensor, list[Hashable]]:
    """Faces drawn at random, with the label to purify of.

    Args:
        folder: the user's copy, as torchvision has it or as parquet files.
        label: ``"hair"``, for the rows with exactly one of the four hair colours, or ``"smiling"``, for all.
        rows: how many.
        seed: which.
        size: pixels.

    Returns:
        Bytes, shape ``(rows, 3, size, size)``, and a label each: ``"black"``, ``"blond"``, ``"brown"``, ``"gray"``; or a bool.

    Raises:
        ValueError: if the folder is no copy of CelebA or too small a part of it, or some label is never drawn.
    """
    source = _open(folder)
    attributes = np.stack([np.array(source[column]) for column in COLUMNS], 1).astype(int) > 0
    hair, smiling = attributes[:, :4], attributes[:, 4]
    by_label: dict[str, tuple[list[Hashable], np.ndarray, np.ndarray]] = {
        "hair": ([*HAIR_COLUMNS.values()], hair.argmax(1), np.flatnonzero(hair.sum(1) == 1)),
        "smiling": ([False, True], smiling.astype(int), np.arange(len(attributes))),
    }
    names, of_row, usable = by_label[label]
    if len(usable) < rows:
        problem = f"{rows} rows asked for, but {len(usable)} of {len(attributes)} images with attributes can be used"
        raise wrong_folder(folder, problem, LAYOUT, "Complete the copy, or ask for fewer auxiliary rows.")
    chosen = np.sort(np.random.default_rng(seed).choice(usable, rows, replace=False))
    never = [str(name) for number, name in enumerate(names) if number not in of_row[chosen]]
    if never:
        problem = f"none of {rows} rows drawn has the {label} label {', '.join(never)}"
        raise wrong_folder(folder, problem, LAYOUT, "Ask for more auxiliary rows, or complete the copy.")
    try:
        arrays = [square(row["image"], size) for row in source.select(chosen)]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{folder}: a file cannot be read as an image ({error}): copy it again") from error
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return images, [names[of_row[row]] for row in chosen]


def _open(folder: Path) -> datasets.Dataset:
    """The columns ``image``, decoded when read, and `COLUMNS`."""
    for base in (folder, folder / "celeba"):
        if (base / "img_align_celeba").is_dir():
            return _open_files(base)
    if folder.suffix == ".parquet" or any(folder.glob("**/*.parquet")):
        return _open_parquet(folder)
    if any((base / ATTRIBUTES).is_file() for base in (folder, folder / "celeba")):
        problem = "attributes, but no folder img_align_celeba"
        raise wrong_folder(folder, problem, LAYOUT, "Unpack img_align_celeba.zip beside them.")
    raise wrong_folder(folder, "no CelebA found", LAYOUT, "Give the folder that holds this.")


def _open_files(base: Path) -> datasets.Dataset:
    images = base / "img_align_celeba"
    present = {path.name for path in images.iterdir()}
    if not (base / ATTRIBUTES).is_file():
        problem = f"{len(present)} files in img_align_celeba, but no {ATTRIBUTES}"
        raise wrong_folder(base, problem, LAYOUT, f"Copy {ATTRIBUTES} beside img_align_celeba.")
    table = read_attributes(base / ATTRIBUTES)
    here = table[table.index.isin(present)]
    if here.empty:
        problem = f"none of the {len(table)} images that {ATTRIBUTES} names is among {len(present)} files in img_align_celeba"
        raise wrong_folder(base, problem, LAYOUT, "Unpack img_align_celeba.zip; its images keep their names.")
    columns = {"image": [str(images / name) for name in here.index], **here.to_dict("list")}
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def read_attributes(path: Path) -> pd.DataFrame:
    """The five attributes of `COLUMNS`, as 1 and -1, by file name, of a `list_attr_celeba.txt`.

    Raises:
        ValueError: if columns are missing, a line is cut off, or the file has fewer lines than its first one says.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        count = file.readline().strip()
        try:
            table = pd.read_csv(file, sep=r"\s+")
        except (pd.errors.EmptyDataError, pd.errors.ParserError):
            table = pd.DataFrame()
    if not count.isdecimal() or not set(COLUMNS).issubset(table):
        raise ValueError(f"{path} must open with the number of rows and the names of 40 attributes: download it again")
    if len(table) != int(count):
        raise ValueError(f"{path} must have {count} rows, as its first line says, got {len(table)}: download it again")
    whole = table.isin([1, -1]).all(axis=1).to_numpy()
    if not whole.all():
        needed = f"must be a file name and {len(table.columns)} times 1 or -1"
        raise ValueError(f"{path}, row {whole.argmin() + 1}: {needed}: download it again")
    return table[list(COLUMNS)].astype(int)


def _open_parquet(folder: Path) -> datasets.Dataset:
    try:
        splits = splits_of(str(folder))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise wrong_folder(folder, f"parquet files that cannot be opened ({error})", LAYOUT, "Copy them again.") from error
    split = splits["train"] if "train" in splits else next(iter(splits.values()))
    missing = [column for column in ("image", *COLUMNS) if column not in split.column_names]
    if missing:
        problem = f"parquet files without {', '.join(missing)}; there is {', '.join(split.column_names)}"
        raise wrong_folder(folder, problem, LAYOUT, "Give a copy of the whole table.")
    return split.cast_column("image", datasets.Image())
