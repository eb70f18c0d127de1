"""Sentences of reviews: sentiment as the class, and where a sentence is from as the nuisance."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from purifybench import sentence_encoder
from torch import Tensor

from ._types import Task
from .cells import Sizes, task_of_rows

COLUMNS = ("text", "label", "source")
SIZES = Sizes(rows=400, auxiliary_rows=400, validation_rows=240, test_rows=600)


def build(*, seed: int, sentences: Path, cache: Path, bias: float = 0.95, tuned: bool = False, sizes: Sizes = SIZES) -> Task:
    """Most negative training sentences are from the first source, most positive ones from the second.

    Args:
        seed: which rows.
        sentences: a parquet file with the columns ``text``, ``label`` and ``source``.
        cache: folder for what the encoder makes of the sentences.
        bias: share in [0, 1].
        tuned: give what the encoder's last layer reads, to train that layer, in place of finished embeddings.
        sizes: rows of the splits; smaller where a cell has too few.

    Raises:
        ImportError: if the encoder's package is missing.
        ValueError: if a column is missing, or there are too few rows.

    Source: Kotzias et al. 2015, UCI Sentiment Labelled Sentences, CC BY 4.0.
    """
    texts, labels, groups, names, group_names = _read(sentences)
    rows = _encoded(tuple(texts), cache, tuned)
    named = {"names": names, "group_names": group_names}
    name = "sentences-tuned" if tuned else "sentences"
    return task_of_rows(name, rows.__getitem__, labels, groups, **named, bias=bias, sizes=sizes, seed=seed)


@lru_cache(maxsize=1)
def _encoded(texts: tuple[str, ...], cache: Path, tuned: bool) -> Tensor:
    make = sentence_encoder.lower_layers if tuned else sentence_encoder.embeddings
    return make(texts, cache)


def _read(path: Path) -> tuple[Sequence[str], Tensor, Tensor, list[str], list[str]]:
    """Texts, classes and nuisances by number, and the names of both."""
    table = pd.read_parquet(path)
    for column in COLUMNS:
        if column not in table:
            raise ValueError(f"{path} has no column {column!r}; it has {', '.join(table.columns)}")
    coded = {column: pd.factorize(table[column], sort=True) for column in COLUMNS[1:]}
    (labels, names), (groups, group_names) = coded.values()
    return list(table["text"]), torch.tensor(labels), torch.tensor(groups), [*map(str, names)], [*map(str, group_names)]
