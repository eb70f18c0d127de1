"""Data that `datasets.load_dataset` opens, by what a command line says of them."""

from pathlib import Path

import datasets


def splits_of(source: str) -> datasets.DatasetDict:
    """All splits of a hub data set (``id`` or ``id:config``), a folder (parquet, csv, images ...), or a ``.parquet`` file."""
    if Path(source).is_file():
        return datasets.load_dataset("parquet", data_files=source)
    name, _, config = (source, "", "") if Path(source).exists() else source.partition(":")
    return datasets.load_dataset(name, config or None)
