"""What healthy and unhealthy curves of `metrics()` look like, on biased colour.

    python benchmarks/curves.py --out docs/curves.png

Five short runs of the same training: as it should be, and with one thing wrong each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl
import torch
import tyro
from matplotlib.figure import Figure
from purifybench.methods import Method
from purifybench.methods.purified import Purified
from purifybench.tasks import biased_colour
from purifybench.training import Outcome, Settings, train
from rich.console import Console
from rich.progress import track

mpl.use("Agg")

#: What is shown, and the options that make it so.
FORMS: Mapping[str, Callable[..., Method]] = {
    "healthy: the groups come together": Purified,
    "watched (strength 0): there is something to forget": partial(Purified, strength=0.0),
    "labels that say nothing": partial(Purified, shuffled=True),
    "critic left behind (critic_lr=1e-5)": partial(Purified, critic_lr=1e-5),
    "pull far too strong (strength 20, no fade)": partial(Purified, strength=20.0, fade=0.0),
}


@dataclass(frozen=True)
class Arguments:
    """Healthy and unhealthy curves.

    Attributes:
        seed: of data and network.
        steps: per run.
        out: the figure.
    """

    seed: int = 0
    steps: int = 400
    out: Path = Path("results/curves.png")


def main() -> None:
    """Train, draw, print how each ended."""
    arguments = tyro.cli(Arguments, description=__doc__)
    task = biased_colour.build(seed=arguments.seed)
    settings = Settings(steps=arguments.steps, seed=arguments.seed)
    device = torch.device("cpu")
    made = {form: train(task, method, settings, device=device) for form, method in track(FORMS.items(), "runs")}
    draw(made, arguments.out)
    for form, outcome in made.items():
        Console().print(f"{form}: {list(outcome.accuracy.values())[-1]:.1f} % on unbiased digits")


def draw(made: Mapping[str, Outcome], path: Path) -> None:
    """A row of panels per run: separation beside chance, gradient ratio, loss."""
    figure = Figure(figsize=(10, 1.9 * len(made)), layout="constrained")
    for row, (form, outcome) in zip(figure.subfigures(len(made), 1), made.items(), strict=True):
        row.suptitle(f"{form}; {list(outcome.accuracy.values())[-1]:.0f} % on unbiased digits", fontsize="medium")
        steps = [point["step"] for point in outcome.figures]
        separation, ratio, loss = row.subplots(1, 3)
        separation.plot(steps, [point["separation"] for point in outcome.figures])
        separation.plot(steps, [point["separation by chance"] for point in outcome.figures], "--", color="gray")
        separation.set(title="separation (dashed: by chance)", ylim=(-0.2, 2.4))
        ratio.plot(steps, [point["gradient ratio"] for point in outcome.figures])
        ratio.set(title="gradient_ratio", ylim=(0, None))
        loss.plot(steps, [point["loss"] for point in outcome.figures])
        loss.set(title="loss", ylim=(0, 4))
        for panel in (separation, ratio, loss):
            panel.title.set_fontsize("small")
            panel.tick_params(labelsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
