"""Rows of a stream drawn by label, and batches of any rows decoded and transformed ahead of their use."""

import weakref
from collections import Counter, deque
from collections.abc import Generator, Hashable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from wdpurify import GroupBatch
from wdpurify._torch import derive_seed, rank_and_world

Row = dict[str, Any]


@dataclass
class StreamPlan:
    """What to draw from a stream; ``labels.of`` gives a row's label, or None for one to leave out, and counts the row."""

    labels: Any
    fixed: Hashable
    values: tuple[Hashable, ...] | None
    seed: int
    batch_size: int
    buffer_size: int
    max_search: int
    share: tuple[int, int] = (0, 1)


class Reader:
    """Rows for one purpose, in an order that a saved state of the data set and a few integers describe.

    The stream is cut into stretches of ``buffer_size`` rows, none across an epoch's end. The rows wanted for ``role``
    ("group": those of the fixed value, "population": all labelled ones) are kept, undecoded, and shuffled. Saved is where a
    stretch began: reading it once more goes on exactly, where the buffer of ``IterableDataset.shuffle`` would be lost.
    """

    def __init__(self, dataset: IterableDataset, plan: StreamPlan, role: str) -> None:
        self._dataset, self._plan, self._role = dataset, plan, role
        # A file left half-read until the interpreter ends makes noise there.
        self._open: list[Generator[Row, None, None]] = []
        weakref.finalize(self, _close, self._open)
        self._epoch, self._stretch, self._used, self._ended = 0, 0, 0, False
        self._rows: list[tuple[Hashable, Row]] | None = None
        self._start: dict[str, Any] | None = None
        self._before = self._counts = Counter[str]()

    def take(self) -> tuple[Hashable, Row]:
        """Label and cells of the next row."""
        rows = self._rows if self._rows is not None else self._stretch_rows()
        while self._used == len(rows):
            self._used = 0
            if self._ended:
                self._check(self._counts, "its end")
                self._epoch, self._stretch, self._start, self._before = self._epoch + 1, 0, None, Counter[str]()
                _close(self._open)
            else:
                self._stretch, self._start, self._before = self._stretch + 1, self._live.state_dict(), self._counts
            rows = self._stretch_rows()
        self._rows, self._used = rows, self._used + 1
        return rows[self._used - 1]

    def _stretch_rows(self) -> list[tuple[Hashable, Row]]:
        if not self._open:
            self._live = split_dataset_by_node(self._dataset, *self._plan.share)
            # The epoch's number shuffles the shards: taken from the seed, it does so from the first epoch on.
            self._live.set_epoch(derive_seed(self._plan.seed, self._role, self._epoch) % 2**31)
            if self._start is not None:
                self._live.load_state_dict(self._start)
            self._open.append(iter(self._live))
        counts, number, rows = Counter(self._before), (before := self._before.total()), list[tuple[Hashable, Row]]()
        for number, row in enumerate(islice(self._open[0], self._plan.buffer_size), before + 1):
            label = self._plan.labels.of(row, counts)
            if label is not None and (self._role == "population" or label == self._plan.fixed):
                rows.append((label, row))
            if number == self._plan.max_search:
                self._check(counts, f"row {number}")
        self._ended, self._counts = number - before < self._plan.buffer_size, counts
        seed = derive_seed(self._plan.seed, self._role, self._epoch, self._stretch)
        order = torch.randperm(len(rows), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        return [rows[place] for place in order.tolist()]

    def _check(self, counts: Counter[str], until: str) -> None:
        plan, ended, alone = self._plan, until == "its end", self._plan.share[1] == 1
        expected = (plan.fixed,) if self._role == "group" else plan.values if plan.fixed == "all" and plan.values else ()
        labelled = {name: count for name, count in counts.items() if not name.startswith("dropped")}
        kept = counts[repr(plan.fixed)] if self._role == "group" else sum(labelled.values())
        absent = [repr(value) for value in expected if not counts[repr(value)]]
        if not kept or (absent and (alone or not ended)):  # another rank's share may hold what this one lacks
            fault = f"has no row labelled {', '.join(absent) or 'at all'}; shuffle its files, or set `values` or `max_search`"
        elif ended and kept < plan.batch_size:
            fault = f"has {kept} rows for the {self._role}, fewer than `batch_size` {plan.batch_size}; lower it"
        elif ended and alone and self._role == "population" and len(labelled) < 2:
            fault = "must have at least two label values, or the group is the whole set"
        else:
            return
        shown = ", ".join(f"{name}: {count}" for name, count in counts.most_common(20)) or "none"
        raise ValueError(f"`dataset`, read to {until}, {fault}; rows per value: {shown}")

    def state_dict(self) -> dict[str, Any]:
        """Where the present stretch begins and how much of it was taken, as primitives."""
        place = {"epoch": self._epoch, "stretch": self._stretch, "used": self._used}
        return place | {"start": self._start, "counts": dict(self._before)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position."""
        _close(self._open)
        self._epoch, self._stretch, self._used = int(state["epoch"]), int(state["stretch"]), int(state["used"])
        self._rows, self._start, self._before = None, state["start"], Counter[str](state["counts"])


class StreamSource:
    """Draws undecoded rows of a stream by label, in batches whose images are a list of rows."""

    def __init__(self, dataset: IterableDataset, plan: StreamPlan) -> None:
        self.plan = plan
        self.values = (plan.values or ()) if plan.fixed == "all" else (plan.fixed,)
        roles = ("population",) if plan.fixed == "all" else ("group", "population")
        self._readers = {role: Reader(dataset, plan, role) for role in roles}

    def next_batch(self) -> GroupBatch:
        """``batch_size`` rows of each reader, those of the fixed value first."""
        drawn = {role: [reader.take() for _ in range(self.plan.batch_size)] for role, reader in self._readers.items()}
        groups = [0] * self.plan.batch_size + [-1] * self.plan.batch_size
        if "group" not in drawn:
            groups = [self.values.index(label) for label, _ in drawn["population"]]
        population = [role == "population" for role, taken in drawn.items() for _ in taken]
        rows = [row for taken in drawn.values() for _, row in taken]
        return GroupBatch(rows, torch.tensor(groups, device="cpu"), torch.tensor(population, device="cpu"))

    def state_dict(self) -> dict[str, Any]:
        """Position of every reader."""
        return {"readers": {role: reader.state_dict() for role, reader in self._readers.items()}} | self._identity()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position; raises ValueError if it was saved with other settings."""
        for name, mine in self._identity().items():
            if state.get(name) != mine:
                raise ValueError(f"the state was saved with `{name}` {state.get(name)}, this sampler has {mine}")
        for role, reader in self._readers.items():
            reader.load_state_dict(state["readers"][role])

    def _identity(self) -> dict[str, Any]:
        sizes = {name: getattr(self.plan, name) for name in ("seed", "batch_size", "buffer_size")}
        return sizes | {"world_size": self.plan.share[1], "fixed": repr(self.plan.fixed), "values": repr(self.values)}


class PrefetchedSampler:
    """A :class:`wdpurify.Sampler` whose rows become tensors in worker processes, ahead of their use.

    Its state is that of the batches handed out, whatever is under way. Workers end with :meth:`close` or with the object.
    ``source`` draws row numbers or undecoded rows, and ``loader[rows, seeds]`` is a batch for the extractor.
    """

    def __init__(self, source: Any, loader: Any, share: tuple[int, int] | None, seed: int, workers: int, prefetch: int) -> None:
        self.values: tuple[Hashable, ...] = source.values
        self.n_groups = len(self.values)
        self._source, self._loader, self._share, self._seed = source, loader, share, seed
        self._workers, self._prefetch, self._drawn = workers, prefetch, 0
        self._ahead: deque[tuple[GroupBatch, dict[str, Any]]] = deque()
        self._running: list[Any] = []
        self._position: dict[str, Any] | None = None

    def next_batch(self) -> GroupBatch:
        """The next batch of the source's rows."""
        try:
            if not self._running:
                self._start()
            images = next(self._running[-1])
        except BaseException:
            self.close()
            raise
        (batch, self._position), self._drawn = self._ahead.popleft(), self._drawn + 1
        return batch._replace(images=images)

    def _start(self) -> None:
        share = self._share = self._take_share()
        self._position = self._source.state_dict()
        readers = int(self._workers > 0 and isinstance(self._source, StreamSource))
        self._running.append(_loaded(_Draws(self._source), None, readers, self._prefetch))
        jobs = _jobs(self._running[0], self._ahead, self._seed, self._drawn, *share)
        self._running.append(_loaded(self._loader, jobs, self._workers, self._prefetch))

    def _take_share(self) -> tuple[int, int]:
        share = self._share or rank_and_world()
        if isinstance(self._source, StreamSource):
            self._source.plan.share = share
        return share

    def close(self) -> None:
        """End the workers and forget what they have prepared; the next draw goes on with new ones."""
        while self._running:  # not left to the garbage collector, which a caught error's traceback may delay
            getattr(self._running.pop(), "_shutdown_workers", bool)()
        self._ahead.clear()
        if self._position is not None:
            self._source.load_state_dict(self._position)
            self._position = None

    def state_dict(self) -> dict[str, Any]:
        """Position after the batches handed out, as primitives."""
        self._take_share()
        return {"drawn": self._drawn, "rows": self._position or self._source.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position; raises ValueError if it was saved with other settings."""
        self.close()
        self._take_share()
        self._source.load_state_dict(state["rows"])
        self._drawn = int(state["drawn"])


class _Draws(torch.utils.data.IterableDataset[tuple[GroupBatch, dict[str, Any]]]):
    def __init__(self, source: Any) -> None:
        self._source = source

    def __iter__(self) -> Iterator[tuple[GroupBatch, dict[str, Any]]]:
        while True:
            yield self._source.next_batch(), self._source.state_dict()


def _jobs(drawn: Any, ahead: deque[Any], seed: int, start: int, rank: int, world_size: int) -> Iterator[Any]:
    for number, (batch, position) in enumerate(drawn, start):
        ahead.append((batch, position))
        # A row's random numbers follow from its place in the joint batch of all ranks, group and population apart.
        size = int(batch.population.sum())
        places = [divmod(place, size) for place in range(len(batch.groups))]
        yield batch.images, [derive_seed(seed, "row", number, role, place * world_size + rank) for role, place in places]


def _loaded(items: Any, order: Iterator[Any] | None, num_workers: int, prefetch: int) -> Iterator[Any]:
    # Processes, not threads: a transform may draw from the global generators, and threads would share the training's.
    # Without a generator of its own the loader would draw a seed from the global one.
    options: dict[str, Any] = {"num_workers": num_workers, "prefetch_factor": prefetch if num_workers else None}
    options |= {"sampler": order, "batch_size": None, "collate_fn": _as_is, "generator": torch.Generator("cpu")}
    return iter(DataLoader(items, **options))


def _as_is(batch: Any) -> Any:
    return batch


def _close(iterators: list[Generator[Row, None, None]]) -> None:
    while iterators:
        iterators.pop().close()
