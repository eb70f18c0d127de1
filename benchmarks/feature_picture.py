"""What purifying does to the features, as a picture: digits on coloured ground, trained plain and purified of the colour.

    python benchmarks/feature_picture.py --out benchmarks/figures/features-colour.png

Both networks are trained as in `digits.py` on digits whose ground gives the class away in 95 % of the rows; the picture shows
features of test digits in random colours, once by digit and once by the number of the colour, which in training mostly is the
digit's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import tyro
from audit_faces import trained
from purifybench.command import refuse_wrong
from purifybench.tasks import biased_colour
from purifybench.tasks._types import to_float
from rich.console import Console

from wdpurify.audit import FeatureMap, feature_map

mpl.use("Agg")
#: What the picture calls the methods.
TRAINED = {"plain": "plain", "purified": "wdpurify"}


@dataclass(frozen=True)
class Arguments:
    """Features of a plain and of a purified network.

    Attributes:
        seed: of data, weights and training.
        steps: optimiser steps of each network.
        bias: share of the training digits whose colour goes with the digit.
        projection: how features come into two dimensions, tsne or pca.
        max_rows: test digits in the picture.
        permutations: of the leakage's baseline.
        out: the picture.
    """

    seed: int = 0
    steps: int = 400
    bias: float = 0.95
    projection: Literal["tsne", "pca"] = "tsne"
    max_rows: int = 1000
    permutations: int = 20
    out: Path = Path("results/features-colour.png")


def main() -> None:
    """Train, read, draw."""
    arguments = tyro.cli(Arguments, description=__doc__)
    refuse_wrong(arguments, least=dict.fromkeys(("steps", "max_rows", "permutations"), 1), shares=["bias"])
    found = picture(arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found.plot(arguments.out)
    console = Console()
    console.print(str(found), markup=False)
    console.print(f"drawn into {arguments.out}", markup=False)


def picture(arguments: Arguments) -> FeatureMap:
    """Features of both networks on the shifted test digits."""
    task = biased_colour.build(seed=arguments.seed, bias=arguments.bias, keep_colours=True)
    shifted = task.tests["shifted"]
    assert shifted.groups is not None
    networks = {name: trained(task, method, arguments.seed, arguments.steps) for name, method in TRAINED.items()}
    return feature_map(
        networks,
        to_float(shifted.images),
        shifted.labels,
        shifted.groups,
        class_name="digit",
        nuisance_name="colour",
        projection=arguments.projection,
        permutations=arguments.permutations,
        max_rows=arguments.max_rows,
        seed=arguments.seed,
    )


if __name__ == "__main__":
    main()
