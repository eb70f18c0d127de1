"""Projects the features of several models to two dimensions, for the same rows, by class and by nuisance."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor, nn

from wdpurify._checks import check_choice, check_positive_integer
from wdpurify._labels import labels_of_rows
from wdpurify._renamed import renamed
from wdpurify._rows import Collator

from ._columns import cut, describe_column, plain
from ._feature_plot import feature_figure
from ._inputs import Inputs
from ._leakage import Leakage, decoded, drawn, read_features
from ._text import shown

Projection = Literal["tsne", "pca"]
#: Values with a colour and mark of their own, the most frequent ones; further ones are grey.
MOST = 20
# t-SNE and not UMAP: scikit-learn has it, no compiler is needed at the first call, and the same seed gives the same points.
#: Principal components that the neighbour embedding reads, and its perplexity where there are rows enough.
COMPONENTS = 50
PERPLEXITY = 30


@dataclass(frozen=True)
class Labels:
    """A label of the rows, as it is drawn.

    Attributes:
        name: of the label.
        values: those with a colour of their own.
        codes: place in ``values`` per row, int64, shape ``(rows,)``; -1 for rows in grey.
        others: how many further values there are; rows without a value are grey too.
    """

    name: str
    values: tuple[str, ...]
    codes: Tensor
    others: int


@dataclass(frozen=True)
class MappedFeatures:
    """One model's features.

    Attributes:
        name: of the model.
        points: shape ``(rows, 2)``; axes and distances between models mean nothing.
        leakage: how well a linear probe reads the nuisance off the features, not off the points.
        kept: how well it reads the class; None where the class column has fewer than two values of ten rows.
    """

    name: str
    points: Tensor
    leakage: Leakage
    kept: Leakage | None


@dataclass(frozen=True)
class FeatureMap:
    """The features of all models.

    Attributes:
        models: in the order in which they were given.
        classes, nuisance: labels of the rows.
        projection: how the features came into two dimensions.
    """

    models: tuple[MappedFeatures, ...]
    classes: Labels
    nuisance: Labels
    projection: Projection

    def __str__(self) -> str:
        return "\n".join(f"{shown(own.name)}: {shown(self.nuisance.name)} {own.leakage}" for own in self.models)

    def figure(self) -> Any:
        """A matplotlib ``Figure``: a column per model, coloured by class above and by nuisance below."""
        return feature_figure(self)

    def plot(self, path: Path | str) -> None:
        """Draw the map into a file; the ending of the name gives its kind (.png, .svg, .pdf)."""
        self.figure().savefig(path, dpi=100)


@renamed("images", "rows")
def feature_map(
    models: Mapping[str, Any],
    rows: Any,
    classes: Sequence[Any] | Tensor,
    nuisance: Sequence[Any] | Tensor,
    *,
    class_name: str = "class",
    nuisance_name: str = "nuisance",
    projection: Projection = "tsne",
    layer: str | None = None,
    features: Callable[[Any, Any], Tensor] | None = None,
    collate_fn: Collator | None = None,
    transform: Callable[[Any], Any] | None = None,
    permutations: int = 100,
    max_rows: int = 1000,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> FeatureMap:
    """The features of models, such as a plain and a purified one, in two dimensions, with what a probe reads off them.

    Use rows that took no part in training or purifying. The models are copied, never run or changed themselves.

    Args:
        models: by name, models or their features of the same rows, tensor or array of shape ``(rows, dim)``.
        rows: what :class:`wdpurify.GroupSampler` takes, prepared like the models' own; None if all of ``models`` are features.
        classes: task label per row.
        nuisance: irrelevant label per row; a column of numbers, such as an age, is cut into four ranges.
        class_name, nuisance_name: what to call them.
        projection: "tsne", which keeps neighbours, or "pca", which keeps the directions of largest variance.
        layer: name of the layer whose input is the features; None finds the classifier.
        features: ``features(model, batch)``, in place of ``layer``.
        collate_fn, transform: as for :class:`wdpurify.GroupSampler`: make a batch of the list of items, and change it.
        permutations: of the leakage's baseline.
        max_rows: of more rows, so many are drawn.
        device: where to run; None stays with each model.
        seed: draws rows, folds and permutations; on one kind of machine the picture depends on it alone.

    Raises:
        ValueError: if there is no model, lengths differ, or fewer than two values of the nuisance have ten rows.
        TypeError: for models that are neither modules nor features.

    >>> import torch
    >>> from wdpurify.audit import feature_map
    >>> hair = torch.arange(60) % 2
    >>> plain = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) + 3 * hair[:, None]
    >>> found = feature_map({"plain": plain}, None, torch.arange(60) % 3, hair, projection="pca", permutations=2)
    >>> found.models[0].points.shape
    torch.Size([60, 2])
    >>> found.plot("features.png")  # doctest: +SKIP
    """
    check_positive_integer("permutations", permutations)
    check_positive_integer("max_rows", max_rows)
    check_choice("projection", projection, ("tsne", "pca"))
    if isinstance(models, Mapping):
        models = {name: torch.as_tensor(own) if type(own).__module__ == "numpy" else own for name, own in models.items()}
    inputs = None if rows is None else Inputs(rows, collate_fn=collate_fn, transform=transform)
    used = drawn(torch.arange(_count(models, inputs, classes, nuisance)), max_rows, seed)
    labels = [labels_of_rows(classes, "classes"), cut(labels_of_rows(nuisance, "nuisance"), "`nuisance`")]
    task, others = ([plain(cells[row]) for row in used.tolist()] for cells in labels)
    column, codes, _ = describe_column(nuisance_name, others)
    if column.problem:
        raise ValueError(f"`nuisance` must have two values or more to tell apart, got: {column.problem}")
    own_column, own_codes, _ = describe_column(class_name, task)
    found = []
    for name, model in models.items():
        if isinstance(model, Tensor):
            read = model[used.to(model.device)].detach().float().cpu()
        else:
            assert inputs is not None
            read = read_features(model, inputs.part(used), layer=layer, features=features, device=device, seed=seed)
        probes = [
            None if problem else decoded(read[place >= 0], place[place >= 0], permutations=permutations, seed=seed)
            for place, problem in ((codes, ""), (own_codes, own_column.problem))
        ]
        assert probes[0] is not None
        found.append(MappedFeatures(name, projected(read, projection, seed), probes[0], probes[1]))
    return FeatureMap(tuple(found), _labels(class_name, task), _labels(nuisance_name, others), projection)


def projected(features: Tensor, projection: Projection, seed: int) -> Tensor:
    """Project features ``(rows, dim)`` to points ``(rows, 2)``; constant features give one point, a single feature a line."""
    points = torch.zeros(len(features), 2)
    if not (features != features[0]).any():
        return points
    data = features.double().numpy()
    width = min(*features.shape, COMPONENTS if projection == "tsne" else 2)
    data = PCA(width, svd_solver="full").fit_transform(data)
    if projection == "tsne" and width > 1:
        perplexity = min(PERPLEXITY, (len(data) - 1) / 3)
        data = TSNE(perplexity=perplexity, init="pca", random_state=seed % 2**32).fit_transform(data)
    points[:, : data.shape[1]] = torch.from_numpy(data).float()
    return points


def _count(models: Any, inputs: Inputs | None, classes: Any, nuisance: Any) -> int:
    """Return the number of rows, after a check that all agree."""
    if not isinstance(models, Mapping) or not models:
        raise ValueError("`models` must name at least one model or its features, {name: model}")
    for name, model in models.items():
        if not isinstance(model, (nn.Module, Tensor)):
            raise TypeError(f"`models` must be torch modules or features, got {type(model).__name__} for {name!r}")
        if isinstance(model, Tensor) and (model.ndim != 2 or not model.isfinite().all()):
            raise ValueError(
                f"`models`: features must be finite and of shape (rows, dim), got {tuple(model.shape)} for {name!r}"
            )
        if isinstance(model, nn.Module) and inputs is None:
            raise TypeError(f"`rows` must hold what the model {name!r} reads, got None. Give rows, or the model's features")
    tensors = {f"the features of {name!r}": model for name, model in models.items() if isinstance(model, Tensor)}
    lengths = {name: len(part) for name, part in (tensors | {"`classes`": classes, "`nuisance`": nuisance}).items()}
    lengths |= {} if inputs is None else {"`rows`": len(inputs)}
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise ValueError(f"`models`, `rows` and labels must have as many rows each, got {given}")
    return len(classes)


def _labels(name: str, cells: list[Any]) -> Labels:
    counts = Counter(cell for cell in cells if cell is not None)
    chosen = [value for value, _ in counts.most_common(MOST)]
    try:
        chosen.sort()
    except TypeError:  # values of several kinds
        chosen.sort(key=str)
    place = {value: number for number, value in enumerate(chosen)}
    codes = torch.tensor([-1 if cell is None else place.get(cell, -1) for cell in cells])
    return Labels(name, tuple(map(str, chosen)), codes, len(counts) - len(chosen))
