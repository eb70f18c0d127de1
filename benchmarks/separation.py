"""Does `separation` tell the truth? What the critic reads beside what a linear probe reads, over the embedded tasks.

    python benchmarks/separation.py
    python benchmarks/separation.py --more results/pictures/results.jsonl:5

Networks are trained watched (strength 0: the plain run), purified, and watched with shuffled labels. Their auxiliary features
are probed for the auxiliary label at the end. Runs of `pictures.py` have both figures too, the probe's from test rows: `--more`
adds them, with the number of groups behind a colon.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import PartialState
from purifybench import figures, tables
from purifybench.command import Runs, read, refuse_wrong
from purifybench.faces.sets import TASK_SETS
from purifybench.jobs import Job, Plan
from purifybench.methods import Methods, Purified
from purifybench.network import features_of
from purifybench.report import estimate
from purifybench.results import Record, ResultsStore
from purifybench.tasks import Task, built
from purifybench.training import Settings

from wdpurify.audit import leakage

BIAS = 0.95
STEPS: Mapping[str, int] = {"colour": 400, "photo": 400, **dict.fromkeys(TASK_SETS, 500)}


class Probed(Purified):
    """Purifying, and at the end a probe of the auxiliary features for the auxiliary label."""

    def finish(self) -> dict[str, float]:
        features = features_of(self.network, self.task.auxiliary.images, self.run.device).float().cpu()
        found = leakage(None, features, self.groups, permutations=1)  # of the labels that the critic was given
        return {"leakage": 100.0 * found.balanced_accuracy, "groups": float(len(set(self.groups)))}


METHODS: Methods = {
    "watched": partial(Probed, strength=0.0),
    "purified": Probed,
    "labels shuffled, watched": partial(Probed, strength=0.0, shuffled=True),
}


@dataclass(frozen=True)
class Arguments(Runs):
    """Does `separation` tell the truth?

    Attributes:
        backbones: names of networks.
        tasks: names of tasks, colour, photo or sets of faces; all by default.
        seeds: one run each.
        more: results of `pictures.py`, each as `FILE:GROUPS`.
        cache: folder for drawn faces.
    """

    backbones: tuple[str, ...] = ("small-bn",)
    tasks: tuple[str, ...] = tuple(STEPS)
    seeds: tuple[int, ...] = (0, 1)
    more: tuple[str, ...] = ()
    cache: Path = Path("results/faces-cache")
    out: Path = Path("results/separation")


def build_task(job: Job, *, arguments: Arguments) -> Task:
    """The task of a job."""
    return built(job.task, job.settings.seed, {"cache": arguments.cache, "bias": BIAS})


def readings(
    records: list[Record], groups: float | None = None, of: str | None = None
) -> dict[str, list[tuple[float, float, float]]]:
    """Separation, what chance gives, and leakage of all runs that have them, by task and row.

    Args:
        records: of this benchmark or of `pictures.py`, whose probe is of the true labels, not of those of a shuffled control.
        groups: how many there are, where the records do not say.
        of: what to call the task; the records' own name by default.

    Returns:
        Triples; the leakage is the share of the way from chance to 100 %, in percent.
    """
    found: dict[str, list[tuple[float, float, float]]] = {}
    for record in records:
        last = record["figures"][-1] if record["figures"] else {}
        measured = record.get("measures", {})
        true_labels = "groups" in measured or "shuffled" not in record["key"]["row"]
        if "separation" not in last or "leakage" not in measured or not true_labels:
            continue
        chance = 100.0 / float(measured.get("groups", groups))
        above = 100.0 * (measured["leakage"] - chance) / (100.0 - chance)
        name = f"{of or record['key']['task']}, {record['key']['row']}"
        found.setdefault(name, []).append((last["separation"], last["separation by chance"], above))
    return found


def opened(more: str) -> tuple[Path, int]:
    """File and number of groups of a value of `--more`."""
    name, _, groups = more.rpartition(":")
    if not (name and groups.isdigit() and int(groups) > 1 and Path(name).is_file()):
        raise SystemExit(f"--more: expected FILE:GROUPS with a results.jsonl and a number above 1, got {more!r}")
    return Path(name), int(groups)


def main() -> None:
    """Run everything, print a table, plot."""
    arguments = read(Arguments, __doc__)
    refuse_wrong(arguments, known={"tasks": STEPS}, filled=["seeds"])
    further = [opened(more) for more in arguments.more]
    plans = [
        Plan(task, METHODS, arguments.backbones, arguments.seeds, Settings(steps=STEPS[task]), data={"probe": "auxiliary"})
        for task in arguments.tasks
    ]
    state = PartialState()
    with state.main_process_first():  # runs side by side only read the cache
        for task in set(arguments.tasks) & set(TASK_SETS):
            built(task, arguments.seeds[0], {"cache": arguments.cache})
    records = arguments.records(plans, build_task, title="separation")
    if state.is_main_process:
        found = readings(records)
        for path, groups in further:
            found |= readings(ResultsStore(path).records(), groups, of=path.parent.name)
        write(found, arguments.out)


def write(found: Mapping[str, list[tuple[float, float, float]]], out: Path) -> None:
    """The table and the plot."""
    rows = [["task, training", "separation", "by chance", "leakage above chance, % of what there is"]]
    for name, triples in found.items():
        apart, chance, above = zip(*triples, strict=True)
        mean = [estimate(list(values)) for values in (apart, chance, above)]
        rows.append([name, f"{mean[0].mean:.2f} ± {mean[0].half_width:.2f}", f"{mean[1].mean:.2f}", str(mean[2])])
    tables.show("what critic and probe read", rows, out / "separation.md")
    points = {name: [(apart / chance, above) for apart, chance, above in triples] for name, triples in found.items()}
    figures.separation_and_leakage(points, out / "separation.png")


if __name__ == "__main__":
    main()
