"""The paper's own figures, for scale: Tables I to III of Li et al. 2021, arXiv:2102.10955, accuracies in percent.

They stand in two files beside this one. Its runs are on other data than the embedded ones here, with other networks, steps and
rates. The averages of the faces are as it prints them; one of them, AMTL with AlexNet, is not the mean of its six cells, 37.71.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

FACES = Path(__file__).with_name("paper_faces.csv")
DIGITS = Path(__file__).with_name("paper_digits.csv")


def faces(extractor: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Tables I and III for an extractor, by pair of sets and method; for one that the paper has not, the mean of its three.

    Args:
        extractor: a name of `BACKBONES`.
        names: methods, of "Goal 1", "TL", "MTL", "AMTL", "PL" and "PL (smiling)".
    """
    table = pd.read_csv(FACES, index_col=["extractor", "method"]).drop(columns="average")
    chosen = table.loc[[extractor]] if extractor in table.index.levels[0] else table
    return chosen.groupby("method").mean().loc[list(names)].to_dict()


def digits(test: str, backbone: str) -> dict[str, float]:
    """Table II for a test set ("SVHN" or "MNIST-M") and a backbone; for one that the paper has not, the mean of its seven."""
    rows = pd.read_csv(DIGITS, index_col=["test", "backbone"]).loc[test]
    return (rows.loc[backbone] if backbone in rows.index else rows.mean()).to_dict()
