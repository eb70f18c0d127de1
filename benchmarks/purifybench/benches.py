"""The benches of the table over several kinds of data: how the rows of each are made, its network, and how that is trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from .recipe import Recipe
from .tasks import (
    Task,
    adult,
    biased_colour,
    needed_options,
    open_options,
    options_for,
    pictures,
    scanned,
    sentences,
    site_table,
)
from .training import Settings

PERCEPTRON = "purifybench.row_networks:perceptron"
LAST_LAYER = "purifybench.row_networks:last_layer"
#: AdamW with a one-cycle schedule, as every bench but the digits has it.
ADAMW = Recipe()


@dataclass(frozen=True)
class Bench:
    """One kind of data with its network and training.

    Attributes:
        build: makes the task, called as ``build(seed=..., ...)`` with those options of the benchmark that it names.
        network: as `network_named` knows it.
        steps, batch_size, lr: of a run.
        recipe: of a run; None is SGD as digits are trained.
        options: of the network, beside the numbers of inputs and classes of a network that reads no pictures.
        fitted: kind of rows, for methods that are fitted on them as they are; a key of `FITTED_METHODS`.
    """

    build: Callable[..., Task]
    network: str = "small-bn"
    steps: int = 400
    batch_size: int = 64
    lr: float = 1e-3
    recipe: Recipe | None = ADAMW
    options: Mapping[str, Any] = field(default_factory=dict)
    fitted: str = ""

    def task(self, seed: int, given: Mapping[str, Any]) -> Task:
        """Its task, from all options that the benchmark was given."""
        return self.build(seed=seed, **options_for(self.build, given))

    def missing(self, given: Mapping[str, Any]) -> list[str]:
        """Options without which it has no data."""
        return [option for option in needed_options(self.build) if given.get(option) is None]

    def data(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What its data depend on beside the seed."""
        taken = open_options(self.build)
        return {option: value for option, value in given.items() if option in taken and option != "cache"}

    def network_options(self, task: Task) -> tuple[tuple[str, Any], ...]:
        """Options of its network as pairs, with the numbers of inputs and classes where it reads no pictures."""
        sized = {"inputs": task.train.images.shape[-1], "classes": task.n_classes}
        reads_rows = self.network in (PERCEPTRON, LAST_LAYER)
        return tuple(sorted({**(sized if reads_rows else {}), **self.options}.items()))

    def settings(self, options: tuple[tuple[str, Any], ...], steps: int | None) -> Settings:
        """The settings of its runs, but for network and seed; ``steps`` in place of its own where given."""
        steps = self.steps if steps is None else steps
        return Settings(steps=steps, batch_size=self.batch_size, lr=self.lr, recipe=self.recipe, network_options=options)


def coloured_digits(*, seed: int, bias: float = 0.95) -> Task:
    """The embedded digits on coloured ground, with the names of the other benches' tests."""
    task = biased_colour.build(seed=seed, bias=bias, keep_colours=True)
    return replace(task, name="colour", tests={"paired": task.tests["clean"], "unbiased": task.tests["shifted"]})


def styled_pictures(*, seed: int, styles: str, cache: Any, bias: float = 0.95) -> Task:
    """Pictures of several art styles, with the columns ``image``, ``label`` and ``style``."""
    chosen = pictures.Pictures((str(styles),), class_column="label", nuisance_column="style", image_size=64)
    return pictures.build(seed=seed, cache=cache, chosen=chosen, bias=bias, name="styles")


#: Bench name -> bench, in the order of the table.
BENCHES: Mapping[str, Bench] = {
    "table": Bench(site_table.build, PERCEPTRON, steps=200, batch_size=32, options={"hidden": (64, 64)}, fitted="table"),
    "adult": Bench(adult.build, PERCEPTRON, options={"hidden": (128, 128)}, fitted="table"),
    "sentences": Bench(sentences.build, PERCEPTRON, steps=300, batch_size=32, options={"hidden": (128,)}, fitted="embeddings"),
    "colour": Bench(coloured_digits, lr=1e-2, recipe=None),
    "scanned": Bench(scanned.build),
    "styles": Bench(styled_pictures, "purifybench.pretrained:efficientnet_lite0", steps=200, batch_size=32),
    "sentences-tuned": Bench(partial(sentences.build, tuned=True), LAST_LAYER, steps=75, batch_size=16, lr=5e-5),
}
