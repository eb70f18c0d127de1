"""Worker processes that read, collate and transform the rows of batches ahead of their use."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ._rows import Collator, batch_of, refuse_dropped, refuse_reordered
from ._torch import derive_seed, generators_in, private_randomness

#: Number and row numbers of a batch.
Job = tuple[int, Tensor]


class BatchReader(Dataset[Any]):
    """Reads batches by their row numbers; ``reader[job]`` is the input of the extractor.

    Args:
        rows: result of :func:`wdpurify._rows.by_position`.
        collate_fn: makes a batch of the list of items.
        transform: function of each batch.
        seed: of what collator and transform draw at random in a worker.
    """

    def __init__(self, rows: Any, collate_fn: Collator | None, transform: Callable[[Any], Any] | None, *, seed: int) -> None:
        self._rows = rows
        self._collate_fn = collate_fn
        self._transform = transform
        self._seed = seed
        self._is_in_order = False
        self._generators: list[Any] | None = None

    def read(self, rows: Tensor) -> Any:
        """Read one batch in this process; refuse rows that collator or transform drop, or in the first batch reorder."""
        batch = self._batch_of(rows)
        if self._transform or self._collate_fn:
            refuse_dropped(batch, len(rows))
            if not self._is_in_order:
                refuse_reordered(self._batch_of, rows, generators_in(self._transform, self._collate_fn))
        self._is_in_order = True
        return batch

    def _batch_of(self, numbers: Tensor) -> Any:
        batch = batch_of(self._rows, numbers, self._collate_fn)
        return self._transform(batch) if self._transform else batch

    def __getitem__(self, job: Job) -> Any:
        number, rows = job
        if self._generators is None:
            self._generators = generators_in(self._rows, self._collate_fn, self._transform)
        seed = derive_seed(self._seed, "batch", number, *rows[:1].tolist())
        with private_randomness(torch.device("cpu"), seed, self._generators):
            return self.read(rows)


class Workers:
    """Reads batches in worker processes, in order. A copy or a pickle starts processes of its own.

    Args:
        reader: reads one batch.
        count: number of processes, at least 1.
    """

    def __init__(self, reader: BatchReader, count: int) -> None:
        self._reader = reader
        self._count = count
        self._running: Any = None
        self._next = -1

    def read(self, number: int, jobs: Callable[[int], Iterator[Job]]) -> Any:
        """Return batch ``number``; ``jobs(number)`` yields the jobs from there on. Another number than the next starts anew."""
        try:
            if self._running is None or number != self._next:
                self.close()
                # A private generator, because DataLoader otherwise draws its base seed from the global one.
                options: dict[str, Any] = {"batch_size": None, "collate_fn": _as_it_is, "num_workers": self._count}
                loader: DataLoader[Any] = DataLoader(
                    self._reader, sampler=jobs(number), generator=torch.Generator("cpu"), **options
                )
                self._running = iter(loader)
            batch = next(self._running)
        except BaseException:
            self.close()
            raise
        self._next = number + 1
        return batch

    def close(self) -> None:
        """End the processes."""
        running, self._running = self._running, None
        if running is not None:
            running._shutdown_workers()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_running": None}


def _as_it_is(batch: Any) -> Any:
    return batch
