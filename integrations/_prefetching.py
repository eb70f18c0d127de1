"""Decodes and transforms batches in worker processes, ahead of their use."""

import copy
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from wdpurify import GroupBatch
from wdpurify._each_row import EachRow, each_row
from wdpurify._torch import agree_on_share, derive_seed

from ._streaming import StreamSource


class PrefetchedSampler:
    """A sampler that decodes its rows in worker processes, ahead of their use.

    Its state counts the returned batches only, not the prefetched ones. Workers end with :meth:`close` or with the object.
    ``source`` draws row numbers or undecoded rows, and ``loader[rows, seeds]`` is a batch for the extractor.
    """

    def __init__(
        self,
        source: Any,
        loader: Any,
        share: tuple[int, int] | None,
        seed: int,
        workers: int,
        prefetch: int,
        *,
        across_ranks: bool,
    ) -> None:
        self.across_ranks = across_ranks
        self.values: tuple[Hashable, ...] = source.values
        self.n_groups = len(self.values)
        self._source = source
        self._loader = loader
        self._share = share
        self._seed = seed
        self._workers = workers
        self._prefetch = prefetch
        self._drawn = 0
        self._ahead: deque[tuple[GroupBatch, dict[str, Any]]] = deque()
        self._running: list[Any] = []
        self._position: dict[str, Any] | None = None

    def next_batch(self) -> GroupBatch:
        """Return the next batch of the source's rows."""
        try:
            if not self._running:
                self._start()
            images = next(self._running[-1])
        except BaseException:
            self.close()
            raise
        (batch, self._position) = self._ahead.popleft()
        self._drawn = self._drawn + 1
        return batch._replace(images=images)

    def __iter__(self) -> Iterator[GroupBatch]:
        """Draw batches without end; the sampler is its own iterator, because its position is part of its state."""
        return self

    def __next__(self) -> GroupBatch:
        return self.next_batch()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._source!r}, num_workers={self._workers})"

    def _start(self) -> None:
        share = self._take_share()
        self._share = share
        self._position = self._source.state_dict()
        readers = int(self._workers > 0 and isinstance(self._source, StreamSource))
        self._running.append(_loaded(_Draws(self._source), None, readers, self._prefetch))
        jobs = _jobs(self._running[0], self._ahead, self._seed, self._drawn, *share)
        self._running.append(_loaded(self._loader, jobs, self._workers, self._prefetch))

    def _take_share(self) -> tuple[int, int]:
        share = agree_on_share(self._share)
        if isinstance(self._source, StreamSource):
            self._source.plan.share = share
        return share

    def close(self) -> None:
        """End the workers and discard the prefetched batches; the next draw starts new workers at the same position."""
        while self._running:  # explicit, because a caught error's traceback may delay garbage collection
            getattr(self._running.pop(), "_shutdown_workers", bool)()
        self._ahead.clear()
        if self._position is not None:
            self._source.load_state_dict(self._position)
            self._position = None

    def each_row(self, *, max_rows: int) -> EachRow | None:
        """Return a copy that draws each row once, see :func:`wdpurify._each_row.each_row`."""
        whole = each_row(self._source, max_rows=max_rows)
        if whole is None:
            return None
        copied = copy.copy(self)
        copied._source, copied._drawn, copied._position = whole.sampler, 0, None
        copied._ahead, copied._running = deque(), []
        return whole._replace(sampler=copied)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PrefetchedSampler":
        copied = copy.copy(self)  # the copies can share the rows, because no code writes to them
        copied._source = copy.deepcopy(self._source, memo)
        copied._ahead = deque()
        copied._running = []
        copied._position = None
        copied.load_state_dict(self.state_dict())
        return copied

    def identity(self) -> dict[str, Any]:
        """Return the settings that must be equal on every rank and in a resumed run."""
        self._take_share()
        identity: dict[str, Any] = self._source.identity()
        return identity

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the returned batches, as primitives."""
        self._take_share()
        return {"drawn": self._drawn, "rows": self._position or self._source.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved position; raises ValueError if its settings differ."""
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
        # A row's seed depends on its place in the joint batch of all ranks, separately for group and population.
        size = int(batch.population.sum()) or len(batch.groups)
        places = [divmod(place, size) for place in range(len(batch.groups))]
        yield batch.images, [derive_seed(seed, "row", number, role, place * world_size + rank) for role, place in places]


def _loaded(items: Any, order: Iterator[Any] | None, num_workers: int, prefetch: int) -> Iterator[Any]:
    # Processes, because a transform may use the global generators, which threads would share with the training.
    # A separate generator, because DataLoader otherwise draws its base seed from the global one.
    options: dict[str, Any] = {"num_workers": num_workers, "prefetch_factor": prefetch if num_workers else None}
    options |= {"sampler": order, "batch_size": None, "collate_fn": _as_is, "generator": torch.Generator("cpu")}
    return iter(DataLoader(items, **options))


def _as_is(batch: Any) -> Any:
    return batch
