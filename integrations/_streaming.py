"""Draws rows of a stream by label, in an order that resumes exactly after an interruption."""

import weakref
from collections import Counter
from collections.abc import Generator, Hashable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node

from wdpurify import GroupBatch
from wdpurify._balance import cells_of_rows
from wdpurify._each_row import EachRow
from wdpurify._order import CellOrder
from wdpurify._torch import derive_seed

Row = dict[str, Any]

#: Number of rows from the start of an epoch within which every label value must occur.
LONGEST_SEARCH = 100_000


@dataclass
class StreamPlan:
    """Settings of draws from a stream; ``labels.of`` returns a row's label, or None for a dropped row, and counts the row.

    ``balance`` is the column of classes; draws are even over the cells of group and class.
    """

    labels: Any
    fixed: Hashable
    values: tuple[Hashable, ...] | None
    seed: int
    batch_size: int
    buffer_size: int
    balance: str | None = None
    share: tuple[int, int] = (0, 1)


class Reader:
    """Reads rows for one role, in an order whose state is a state of the data set and a few integers.

    It reads stretches of ``buffer_size`` rows, none across an epoch's end. It buffers and shuffles, undecoded, the rows for
    ``role`` ("group": rows of the fixed value, "population": all labelled rows). A state stores the start of a stretch, so a
    resumed reader reads the stretch again and continues exactly; ``IterableDataset.shuffle`` loses its buffer instead.
    """

    def __init__(self, dataset: IterableDataset, plan: StreamPlan, role: str) -> None:
        self._dataset = dataset
        self._plan = plan
        self._role = role
        # A generator that still holds an open file at interpreter exit causes a warning there.
        self._open: list[Generator[Row, None, None]] = []
        weakref.finalize(self, _close, self._open)
        self._epoch = 0
        self._stretch = 0
        self._used = 0
        self._ended = False
        self._rows: list[tuple[Hashable, Row]] | None = None
        self._start: dict[str, Any] | None = None
        self._before = Counter[str]()
        self._counts = Counter[str]()

    @property
    def epoch(self) -> int:
        """Number of the epoch of the last row."""
        return self._epoch

    def take(self) -> tuple[Hashable, Row]:
        """Return label and cells of the next row."""
        rows = self._rows if self._rows is not None else self._stretch_rows()
        while self._used == len(rows):
            self._used = 0
            if self._ended:
                self._check(self._counts, "its end")
                self._epoch = self._epoch + 1
                self._stretch = 0
                self._start = None
                self._before = Counter[str]()
                _close(self._open)
            else:
                self._stretch = self._stretch + 1
                self._start = self._live.state_dict()
                self._before = self._counts
            rows = self._stretch_rows()
        self._rows = rows
        self._used = self._used + 1
        return rows[self._used - 1]

    def _stretch_rows(self) -> list[tuple[Hashable, Row]]:
        if not self._open:
            self._live = split_dataset_by_node(self._dataset, *self._plan.share)
            # datasets shuffles the shards by the epoch number; a number from the seed shuffles the first epoch too.
            self._live.set_epoch(derive_seed(self._plan.seed, self._role, self._epoch) % 2**31)
            if self._start is not None:
                self._live.load_state_dict(self._start)
            self._open.append(iter(self._live))
        counts = Counter(self._before)
        before = self._before.total()
        number = before
        rows: list[tuple[Hashable, Row]] = []
        for number, row in enumerate(islice(self._open[0], self._plan.buffer_size), before + 1):
            label = self._plan.labels.of(row, counts)
            if label is not None and (self._role == "population" or label == self._plan.fixed):
                rows.append((label, row))
            if number == LONGEST_SEARCH:
                self._check(counts, f"row {number}")
        self._ended = number - before < self._plan.buffer_size
        self._counts = counts
        seed = derive_seed(self._plan.seed, self._role, self._epoch, self._stretch)
        if self._plan.balance and rows:
            return self._evenly(rows, seed)
        order = torch.randperm(len(rows), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        return [rows[place] for place in order.tolist()]

    def _evenly(self, rows: list[tuple[Hashable, Row]], seed: int) -> list[tuple[Hashable, Row]]:
        """Draw as many rows as the stretch has, evenly over its cells of group and class, with repeated rows in rare cells."""
        classes = [row[self._plan.balance] for _, row in rows]
        cells = cells_of_rows([label for label, _ in rows], classes)
        everything = torch.arange(len(rows), device="cpu")
        order = CellOrder(everything, cells, seed=seed, name=self._role).rows(everything)
        return [rows[place] for place in order.tolist()]

    def _check(self, counts: Counter[str], until: str) -> None:
        plan = self._plan
        ended = until == "its end"
        alone = plan.share[1] == 1
        expected = (plan.fixed,) if self._role == "group" else plan.values if plan.fixed == "all" and plan.values else ()
        labelled = {name: count for name, count in counts.items() if not name.startswith("dropped")}
        kept = counts[repr(plan.fixed)] if self._role == "group" else sum(labelled.values())
        absent = [repr(value) for value in expected if not counts[repr(value)]]
        if not kept or (absent and (alone or not ended)):  # another rank's share may hold a value that this one lacks
            fault = f"has no row labelled {', '.join(absent) or 'at all'}. Shuffle its files, or set `values`"
        elif ended and kept < plan.batch_size:
            fault = f"has {kept} rows for the {self._role}, fewer than `batch_size` {plan.batch_size}. Lower it"
        elif ended and alone and self._role == "population" and len(labelled) < 2:
            fault = "must hold at least two label values, got one. Add rows of another group"
        else:
            return
        shown = ", ".join(f"{name}: {count}" for name, count in counts.most_common(20)) or "none"
        raise ValueError(f"`dataset`, read to {until}, {fault} (rows per value: {shown})")

    def state_dict(self) -> dict[str, Any]:
        """Return the start of the present stretch and the number of its used rows, as primitives."""
        place = {"epoch": self._epoch, "stretch": self._stretch, "used": self._used}
        return place | {"start": self._start, "counts": dict(self._before)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved position."""
        _close(self._open)
        self._epoch = int(state["epoch"])
        self._stretch = int(state["stretch"])
        self._used = int(state["used"])
        self._rows = None
        self._start = state["start"]
        self._before = Counter[str](state["counts"])


class StreamSource:
    """Draws undecoded rows of a stream by label, in batches whose images are a list of rows."""

    def __init__(self, dataset: IterableDataset, plan: StreamPlan) -> None:
        self.plan = plan
        self._dataset = dataset
        self.values = (plan.values or ()) if plan.fixed == "all" else (plan.fixed,)
        roles = ("population",) if plan.fixed == "all" else ("group", "population")
        self._readers = {role: Reader(dataset, plan, role) for role in roles}

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.identity().items())
        return f"StreamSource({self.plan.labels.columns}, {settings})"

    def next_batch(self) -> GroupBatch:
        """Draw ``batch_size`` rows from each reader, with the rows of the fixed value first."""
        drawn = {role: [reader.take() for _ in range(self.plan.batch_size)] for role, reader in self._readers.items()}
        groups = [0] * self.plan.batch_size + [-1] * self.plan.batch_size
        if "group" not in drawn:
            groups = [self.values.index(label) for label, _ in drawn["population"]]
        population = [role == "population" for role, taken in drawn.items() for _ in taken]
        rows = [row for taken in drawn.values() for _, row in taken]
        return GroupBatch(rows, torch.tensor(groups, device="cpu"), torch.tensor(population, device="cpu"))

    def state_dict(self) -> dict[str, Any]:
        """Return the position of every reader, and the settings."""
        return {"readers": {role: reader.state_dict() for role, reader in self._readers.items()}} | self.identity()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved position; raises ValueError if its settings differ."""
        for name, mine in self.identity().items():
            if state.get(name) != mine:
                raise ValueError(f"the state was saved with `{name}` {state.get(name)}, this sampler has {mine}")
        for role, reader in self._readers.items():
            reader.load_state_dict(state["readers"][role])

    def each_row(self, *, max_rows: int) -> EachRow | None:
        """Return a copy that draws each row once, and then rows that do not count, whatever ``max_rows`` is.

        None with classes to balance over: how often a cell occurs is known at the end of the stream only.
        """
        return None if self.plan.balance else EachRow(_EpochSource(self._dataset, replace(self.plan)))

    def __deepcopy__(self, memo: dict[int, Any]) -> "StreamSource":
        copied = StreamSource(self._dataset, replace(self.plan))
        copied.load_state_dict(self.state_dict())
        return copied

    def identity(self) -> dict[str, Any]:
        """Return the settings that must be equal on every rank and in a resumed run."""
        sizes = {name: getattr(self.plan, name) for name in ("seed", "batch_size", "buffer_size", "balance")}
        return sizes | {"world_size": self.plan.share[1], "fixed": repr(self.plan.fixed), "values": repr(self.values)}


class _EpochSource(StreamSource):
    """Draws the rows of one epoch, each with its own label, and then rows of no group."""

    def next_batch(self) -> GroupBatch:
        """Draw ``batch_size`` rows; with one fixed value the others are of the population alone."""
        reader = self._readers["population"]
        drawn = [(*reader.take(), reader.epoch == 0) for _ in range(self.plan.batch_size)]
        groups = [self.values.index(label) if counts and label in self.values else -1 for label, _, counts in drawn]
        population = [counts for _, _, counts in drawn]
        rows = [row for _, row, _ in drawn]
        return GroupBatch(rows, torch.tensor(groups, device="cpu"), torch.tensor(population, device="cpu"))


def _close(iterators: list[Generator[Row, None, None]]) -> None:
    while iterators:
        iterators.pop().close()
