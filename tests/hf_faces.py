"""Faces as a Hugging Face data set, on disk and streamed, and how to draw from samplers over them."""

import random

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset

ROWS = 48
HAIR = ["Black", "Blond", "Brown"]
KINDS = {"name": ClassLabel(names=["x", "y", "z"]), "bool": Value("bool"), "text": Value("string")}


def faces(rows=ROWS, **columns):
    """Row i has the number i in every pixel; every third row is `bool`, of class `x` and of text `p`."""
    content = {
        "image": [np.full((4, 4, 3), row, np.uint8) for row in range(rows)],
        "row": list(range(rows)),
        "bool": [row % 3 == 0 for row in range(rows)],
        "name": [row % 3 for row in range(rows)],
        "text": ["pqr"[row % 3] for row in range(rows)],
    }
    features = Features({"image": Image(), "row": Value("int64"), **KINDS})
    dataset = Dataset.from_dict({name: content[name] for name in features}, features=features)
    for name, column in columns.items():
        dataset = dataset.add_column(name, column)
    return dataset


def stream(folder, dataset, shards=3):
    for number in range(shards):
        dataset.shard(shards, number, contiguous=True).to_parquet(folder / f"{number}.parquet")
    files = [str(folder / f"{number}.parquet") for number in range(shards)]
    return load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=str(folder))


def rows_of(batch):
    return (batch.images[:, 0, 0, 0] * 255).round().long().tolist()


def draw(sampler, count):
    return [rows_of(sampler.next_batch()) for _ in range(count)]


def noisy(image):
    """A random transform that draws from all three global generators."""
    return torch.tensor([image.getpixel((0, 0))[0], random.random(), np.random.rand(), torch.rand(()).item()])  # noqa: NPY002


def images_of(sampler, count):
    return torch.stack([sampler.next_batch().images for _ in range(count)])


def count_decoding(monkeypatch):
    decoded, original = [], Image.decode_example
    monkeypatch.setattr(Image, "decode_example", lambda *given, **named: decoded.append(1) or original(*given, **named))
    return decoded
