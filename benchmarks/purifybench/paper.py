"""The paper's own figures, for scale: Tables I to III of Li et al. 2021, arXiv:2102.10955, accuracies in percent.

Its runs are on other data than the embedded ones here, with other networks, steps and rates.
"""

from collections.abc import Mapping

_PAIRS = ("ck+ → mmi", "ck+ → oulu", "mmi → ck+", "mmi → oulu", "oulu → ck+", "oulu → mmi")
_FACES = {
    "alexnet": {
        "Goal 1": (35.91, 34.75, 56.36, 22.12, 55.03, 39.46),
        "TL": (38.28, 25.54, 44.97, 19.89, 54.42, 40.00),
        "MTL": (33.73, 33.08, 57.09, 23.66, 54.67, 40.30),
        "AMTL": (34.57, 33.15, 57.94, 28.73, 43.52, 28.33),
        "PL": (37.61, 38.31, 61.45, 22.61, 59.64, 45.36),
        "PL (smiling)": (32.38, 33.91, 35.39, 18.77, 49.33, 38.45),
    },
    "resnet34": {
        "Goal 1": (50.42, 50.94, 65.33, 44.87, 73.45, 54.13),
        "TL": (46.54, 54.29, 68.73, 46.13, 73.33, 49.01),
        "MTL": (46.54, 47.24, 66.18, 40.96, 72.93, 51.43),
        "AMTL": (44.35, 43.75, 64.61, 42.15, 66.18, 41.99),
        "PL": (50.42, 51.78, 69.21, 42.43, 80.12, 54.30),
        "PL (smiling)": (47.89, 50.31, 65.70, 39.22, 73.70, 51.43),
    },
    "vgg19": {
        "Goal 1": (45.53, 56.66, 65.33, 45.08, 76.73, 45.03),
        "TL": (41.10, 44.52, 62.30, 32.17, 71.27, 43.68),
        "MTL": (37.10, 32.24, 64.61, 46.69, 72.12, 40.00),
        "AMTL": (33.05, 47.66, 57.82, 40.20, 31.88, 20.24),
        "PL": (45.53, 57.22, 66.79, 46.76, 78.91, 51.43),
        "PL (smiling)": (40.47, 42.99, 63.64, 44.59, 75.03, 50.59),
    },
}
_DIGITS = {
    "SVHN": {
        "densenet121": (13.85, 10.64, 16.44),
        "efficientnet": (22.99, 13.99, 33.74),
        "mobilenetv2": (20.06, 11.35, 22.11),
        "resnet18": (15.01, 12.00, 18.83),
        "senet": (15.44, 10.69, 18.22),
        "shufflenetv2": (14.29, 11.98, 20.72),
        "vgg11": (19.50, 13.79, 25.71),
    },
    "MNIST-M": {
        "densenet121": (25.26, 14.28, 35.21),
        "efficientnet": (40.78, 38.71, 57.64),
        "mobilenetv2": (29.77, 21.75, 48.76),
        "resnet18": (25.10, 22.54, 37.64),
        "senet": (17.24, 15.83, 39.71),
        "shufflenetv2": (27.96, 20.34, 47.65),
        "vgg11": (39.18, 42.09, 48.98),
    },
}
#: The paper's averages as it prints them, for a check of the copies above. One of them, AMTL with AlexNet, is not the mean of
#: its six cells, which is 37.71.
PRINTED_AVERAGES: Mapping[tuple[str, str], float] = {
    ("alexnet", "Goal 1"): 40.61,
    ("alexnet", "TL"): 37.18,
    ("alexnet", "MTL"): 40.42,
    ("alexnet", "AMTL"): 37.37,
    ("alexnet", "PL"): 44.16,
    ("alexnet", "PL (smiling)"): 34.71,
    ("resnet34", "Goal 1"): 56.52,
    ("resnet34", "TL"): 56.34,
    ("resnet34", "MTL"): 54.21,
    ("resnet34", "AMTL"): 50.51,
    ("resnet34", "PL"): 58.04,
    ("resnet34", "PL (smiling)"): 54.71,
    ("vgg19", "Goal 1"): 55.73,
    ("vgg19", "TL"): 49.17,
    ("vgg19", "MTL"): 48.79,
    ("vgg19", "AMTL"): 38.48,
    ("vgg19", "PL"): 57.77,
    ("vgg19", "PL (smiling)"): 52.89,
}


def faces(extractor: str, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Tables I and III for an extractor, by pair of sets and method; for one that the paper has not, the mean of its three.

    Args:
        extractor: a name of `BACKBONES`.
        names: methods, of "Goal 1", "TL", "MTL", "AMTL", "PL" and "PL (smiling)".
    """
    chosen = [_FACES[extractor]] if extractor in _FACES else list(_FACES.values())
    return {
        pair: {name: sum(table[name][number] for table in chosen) / len(chosen) for name in names}
        for number, pair in enumerate(_PAIRS)
    }


def digits(test: str, backbone: str) -> dict[str, float]:
    """Table II for a test set ("SVHN" or "MNIST-M") and a backbone; for one that the paper has not, the mean of its seven."""
    rows = _DIGITS[test]
    chosen = [rows[backbone]] if backbone in rows else list(rows.values())
    return {name: sum(row[number] for row in chosen) / len(chosen) for number, name in enumerate(("Goal 1", "DANN", "PL"))}
