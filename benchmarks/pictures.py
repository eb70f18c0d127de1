"""Pictures of your own: what purifying gains when a network is fine-tuned on classes that go with a nuisance.

    accelerate launch benchmarks/pictures.py     embedded cartoon faces, whose art style goes with the expression
    python benchmarks/pictures.py --data PATH.parquet --class-column label --nuisance-column style --image-size 64 \\
        --network purifybench.pretrained:efficientnet_lite0

Of the training pictures of class i the share `--bias` has nuisance i; auxiliary pictures carry the nuisance alone; the test has
each class equally often with each nuisance. Writes a table, `results.jsonl` (one line per run), `report.json`, `report.md`
and figures to `--out`.
"""

from dataclasses import dataclass
from pathlib import Path

import datasets
from accelerate import PartialState
from purifybench.command import Comparison, read, refuse_wrong
from purifybench.jobs import Job, Plan
from purifybench.methods import PICTURE_METHODS
from purifybench.picture_options import PictureOptions
from purifybench.results import write_accuracies
from purifybench.tasks import Task

#: Seed that chooses the options of tuned methods; no reported seed takes part.
TUNING_SEEDS = (1001,)


@dataclass(frozen=True)
class Arguments(PictureOptions, Comparison):
    """What purifying gains on pictures whose nuisance goes with the class.

    Attributes:
        bias: share of the training pictures of a class that have its nuisance.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    bias: float = 0.95
    out: Path = Path("results/pictures")


def main() -> None:
    """Draw or open the pictures, tune what is to be tuned, run everything, report."""
    arguments = read(Arguments, __doc__)
    datasets.disable_progress_bars()
    refuse_wrong(arguments, known={"methods": PICTURE_METHODS}, filled=["seeds"], least={"workers": 1}, shares=["bias"])
    arguments.check_pictures()
    state = PartialState()
    with state.main_process_first():
        arguments.prepare_pictures(seed=arguments.seeds[0], bias=arguments.bias)
    planned = plan(arguments)
    found = arguments.records([planned], build_task, title="pictures")
    if state.is_main_process:
        network = arguments.fine_tuning.network
        title = f"pictures ({network}, bias {arguments.bias}, {planned.settings.steps} steps)"
        arguments.report(title, found, planned, arguments.out / f"pictures-{network.replace(':', '.')}")
        write_accuracies(found, arguments.out / "accuracy.csv")


def plan(arguments: Arguments) -> Plan:
    """The runs."""
    methods, networks = arguments.wanted(PICTURE_METHODS), (arguments.fine_tuning.network,)
    data = {"bias": arguments.bias, **arguments.picture_data()}
    return Plan(
        "pictures", methods, networks, arguments.seeds, arguments.picture_settings(), tuning_seeds=TUNING_SEEDS, data=data
    )


def build_task(job: Job, *, arguments: Arguments) -> Task:
    """The task of a job."""
    return arguments.picture_task(seed=job.settings.seed, bias=arguments.bias)


if __name__ == "__main__":
    main()
