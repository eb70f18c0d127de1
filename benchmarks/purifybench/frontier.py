"""Accuracy against cost: how many auxiliary rows, how often; the forms between which a user chooses."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from .methods import Method
from .methods.purified import Purified

#: Task rows per step that the auxiliary rows below are meant for.
TASK_ROWS = 64
#: Auxiliary rows per acting step, and every how many steps there is one; the strength grows as they become rarer.
FORMS = ((8, 1), (11, 1), (16, 1), (21, 1), (32, 1), (32, 2), (32, 3), (64, 3))


def form_name(rows: int, every: int) -> str:
    """What tables call a form.

    >>> form_name(21, 1), form_name(64, 3)
    ('21 of 64 rows, every step', '64 of 64 rows, every 3 steps')
    """
    return f"{rows} of {TASK_ROWS} rows, every {'step' if every == 1 else f'{every} steps'}"


def forms(task_rows: int = TASK_ROWS) -> Mapping[str, Callable[..., Method]]:
    """The default in every form, its auxiliary rows in proportion to the task's."""
    return {
        form_name(rows, every): partial(
            Purified, batch_size=max(1, round(rows * task_rows / TASK_ROWS)), every=every, strength=float(every)
        )
        for rows, every in FORMS
    }


def plot(cost: Mapping[str, float], recovered: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """One line per task: the share of the gap that each form recovers, against what it costs.

    Args:
        cost: time of a step over the plain loop's, by form.
        recovered: by task and form, in percent.
        title: of the figure.
        path: file to write.
    """
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for task, shares in recovered.items():
        steady, rarer = ([name for name in shares if name.endswith("every step") == every] for every in (True, False))
        (line,) = axes.plot([cost[name] for name in steady], [shares[name] for name in steady], "o-", label=task)
        axes.plot([cost[name] for name in rarer], [shares[name] for name in rarer], "s", color=line.get_color(), mfc="white")
    for name in cost:
        highest = float(np.max([shares[name] for shares in recovered.values() if name in shares], initial=0.0))
        axes.annotate(name, (cost[name], highest), rotation=60, fontsize=7, xytext=(0, 6), textcoords="offset points")
    axes.set(xlabel="time of a step over the plain loop's", ylabel="gap recovered, %", title=title, ylim=(0, 130))
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
