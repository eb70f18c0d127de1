"""Draws a feature map: a column per model, coloured by class above and by nuisance below."""

from typing import TYPE_CHECKING, Any

from ._leakage import Leakage
from ._optional import optional
from ._text import in_plots

if TYPE_CHECKING:
    from ._feature_map import FeatureMap, Labels

#: Colours that a colour-blind eye tells apart on white (Okabe and Ito 2008, without the yellow), and marks for more values.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")
MARKS = ("o", "^", "s")
GREY = "#c8c8c8"
#: Entries of a legend that fit beside a panel in one column.
LONGEST = 12
_AXES = {"tsne": "t-SNE", "pca": "PCA"}


def feature_figure(found: "FeatureMap") -> Any:
    """A matplotlib ``Figure``."""
    figure_class = optional("matplotlib.figure", "the picture of the features").Figure
    figure = figure_class(figsize=(2.9 * len(found.models) + 1.6, 6.6), layout="constrained")
    # A last column without width holds the legends, so that all panels are of one size.
    panels = figure.subplots(2, len(found.models) + 1, squeeze=False, width_ratios=[1.0] * len(found.models) + [0.01])
    _row(panels[0], found, found.classes, [own.kept for own in found.models], "probe")
    _row(panels[1], found, found.nuisance, [own.leakage for own in found.models], "leakage")
    return figure


def _row(panels: Any, found: "FeatureMap", labels: "Labels", probes: list[Leakage | None], what: str) -> None:
    """Draw the panels of one label, with a legend beside them."""
    styles = [(COLOURS[place % len(COLOURS)], MARKS[place // len(COLOURS)]) for place in range(len(labels.values))]
    for axes, own, probe in zip(panels[:-1], found.models, probes, strict=True):
        _scatter(axes, own.points, labels, styles)
        title = in_plots(own.name, 30)
        if probe is not None:
            read = f"{100 * probe.balanced_accuracy:.0f} % (chance {100 * probe.baseline:.0f} %)"
            title += f"\n{what}: {read}"
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel(_AXES[found.projection], fontsize="small", color="grey")
        axes.set(xticks=[], yticks=[])
    panels[0].set_ylabel(f"by {in_plots(labels.name, 24)}")
    lines = optional("matplotlib.lines", "the picture of the features")
    marks = [_mark(lines, colour, mark, name) for (colour, mark), name in zip(styles, labels.values, strict=True)]
    if (labels.codes < 0).any():
        marks.append(_mark(lines, GREY, "o", f"{labels.others} other values" if labels.others else "no value"))
    panels[-1].axis("off")
    panels[-1].legend(
        handles=marks,
        title=in_plots(labels.name, 24),
        loc="upper left",
        fontsize="small",
        frameon=False,
        alignment="left",
        borderaxespad=0,
        ncols=1 if len(marks) <= LONGEST else 2,
    )


def _mark(lines: Any, colour: str, mark: str, name: str) -> Any:
    return lines.Line2D([], [], linestyle="", color=colour, marker=mark, markersize=5, label=in_plots(name, 24))


def _scatter(axes: Any, points: Any, labels: "Labels", styles: list[tuple[str, str]]) -> None:
    """Draw all rows, in an order in which no value covers another."""
    codes = labels.codes.tolist()
    for mark in ("grey", *MARKS):
        rows = [row for row, code in enumerate(codes) if (styles[code][1] if code >= 0 else "grey") == mark]
        colours = [styles[codes[row]][0] if codes[row] >= 0 else GREY for row in rows]
        if rows:
            x, y = points[rows].T.tolist()
            axes.scatter(x, y, s=9, c=colours, marker="o" if mark == "grey" else mark, linewidths=0, alpha=0.8)
