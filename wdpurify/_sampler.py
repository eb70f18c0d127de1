"""GroupSampler: draws batches of auxiliary rows in a seeded order whose state is a few integers."""

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ._balance import cells_to_balance, classes_at_hand, warn_if_confounded
from ._checks import check_object, check_positive_integer
from ._labels import cut_into_ranges, labels_of_rows, numbers_of, refuse_single_rows, warn_of_a_lone_group, warn_of_many
from ._nuisances import columns_of_labels, numbered
from ._order import CellOrder, EpochOrder, Order
from ._renamed import renamed
from ._rows import Collator, by_position
from ._sources import refuse_labels, refuse_mismatch, refuse_rows, tensors_left_out
from ._torch import agree_on_share, check_share, checksum
from ._workers import BatchReader, Job, Workers

ALL = "all"


class GroupBatch(NamedTuple):
    """A batch of auxiliary rows.

    Attributes:
        images: input of the extractor, of any kind, batched along the first dimension. The name stays for samplers of your
            own that construct a batch by keyword.
        groups: index of each row's group, which is its critic output, int64, shape ``(batch,)``; -1 for no group. With several
            labels per row the shape is ``(batch, labels)``.
        population: whether a row stands for the whole auxiliary set, bool, shape ``(batch,)``.
    """

    images: Any
    groups: Tensor
    population: Tensor


class Sampler(Protocol):
    """Interface of a sampler; the regularizer accepts any source of batches with these members."""

    n_groups: int

    def next_batch(self) -> GroupBatch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def check_sampler(sampler: object) -> None:
    """Check the ``sampler`` argument; TypeError with the remedy for anything else."""
    members = ("next_batch", "n_groups", "state_dict", "load_state_dict")
    check_object("sampler", sampler, members, "Give `GroupSampler(rows, groups)`; several labels are columns of one sampler")


class GroupSampler:
    """Draws auxiliary batches by group label, as an iterator without end.

    With ``fixed="all"`` a batch is ``batch_size`` rows of the whole set: each row belongs to the group of its label and to the
    population. With one label value a batch is the paper's pair: ``batch_size`` rows of that label (A), then ``batch_size``
    rows of the whole set (B).

    Order: every stream (the group, the whole set) is a seeded permutation per epoch, so each row comes once before any row
    comes twice; a batch at an epoch's end continues with the next permutation. The order depends only on ``seed``. With n
    ranks, rank r takes rows r, r + n, ... of each joint batch of n times ``batch_size`` rows: the ranks of one step never
    share a row of an epoch, and together they draw the rows of a single process.

    Args:
        rows: tensor, array or any sized object that is indexed by row number: pictures, rows of a table, texts. An item may
            be a tuple, whose first member is the input; a dict, whose entries the extractor receives as keyword arguments; or
            a list of tensors. The sampler reads an item only when it draws it. It does not notice a data set that
            returns another row in place of one that it cannot read.
        groups: one label per row (list, tuple, tensor or array of one dimension): text, a number, a date or a tuple of such. Or
            several labels per row, as columns of a data frame, of a mapping, of a list or of an array of two dimensions: one
            critic separates the values of all of them, and a missing label counts for no group of its column.
        fixed: one label value, or ``"all"``.
        balance: one class per row, for rows whose classes depend on the groups. The sampler then draws evenly over the cells
            of group and class, which compares groups at equal class shares. Each row comes once before any row *of its cell*
            comes twice.
        batch_size: rows per group (m in the paper), at least 1 and at most the size of the group and of the set.
        seed: seed of the order.
        collate_fn: makes a batch of the list of drawn items, for example ragged rows or texts; items that are tuples come
            whole. The extractor receives a dict or ``BatchEncoding`` by keyword, or whole if it takes one argument of another
            name, and a tuple by position. None stacks tensors, entry by entry in dicts and lists, and leaves texts a list.
        transform: function of each batch, after ``collate_fn``, for example to scale bytes to floats or to tokenize. Both
            must keep the rows and their order. The first draw makes two more batches to check this. The check does not notice
            another order if random numbers change the rows too, or if an input has not one entry per row.
        num_workers: number of processes that read, collate and transform ahead, as in a ``DataLoader``; 0 uses this process.
            What a random transform draws differs between 0 and more. Processes end with :meth:`close` or with the sampler.
        rank, world_size: this process's share; None reads them from ``torch.distributed`` at the first draw, 0 of 1 without
            it. With a ``world_size`` of 1 the regularizer trains its critic without the other ranks.

    Attributes:
        left_out: number of tensors per row of a ``TensorDataset`` that are neither the input nor a label.

    Raises:
        TypeError: if a label is not hashable or its ``repr`` differs between processes, or if ``rows`` or ``groups`` has no
            rows by number: a mapping, a data loader, a stream, a data frame, a sparse matrix, paths that nothing opens.
        ValueError: if lengths differ, a label is missing (None or NaN), most label values have a single row (a continuous
            column), ``fixed`` is no label, the set has one label only, a group is smaller than ``batch_size`` times the ranks,
            each class of ``balance`` has one group only, or only one of ``rank`` and ``world_size`` is given.

    >>> sampler = GroupSampler(torch.arange(6.0)[:, None], list("aabbbb"), fixed="a", batch_size=2)
    >>> batch = sampler.next_batch()
    >>> batch.groups.tolist(), batch.population.tolist(), sorted(batch.images[:2, 0].tolist())
    ([0, 0, -1, -1], [False, False, True, True], [0.0, 1.0])
    """

    @renamed("images", "rows")
    def __init__(
        self,
        rows: Any,
        groups: Any,
        *,
        fixed: Hashable = ALL,
        balance: Sequence[Hashable] | Tensor | None = None,
        batch_size: int = 32,
        seed: int = 0,
        collate_fn: Collator | None = None,
        transform: Callable[[Any], Any] | None = None,
        num_workers: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.batch_size = check_positive_integer("batch_size", batch_size)
        workers = num_workers and check_positive_integer("num_workers", num_workers)
        self._share = check_share(rank, world_size)
        self.across_ranks = world_size != 1
        self._agreed = False
        self._seed = seed
        if not isinstance(fixed, Hashable):
            raise TypeError(f'`fixed` must be one label value or "all", got {type(fixed).__name__}. Give the value itself')
        self.fixed = fixed
        self._given = rows
        readable = by_position(rows)
        refuse_rows(rows, prepared=not (transform is None and collate_fn is None))
        refuse_mismatch(rows, groups)
        refuse_labels(groups, "groups")
        if balance is not None:
            refuse_labels(balance, "balance")
        columns = columns_of_labels(groups, len(rows))
        self._reader = BatchReader(readable, collate_fn, transform, seed=seed)
        self._workers = Workers(self._reader, workers) if workers else None
        if columns is not None and fixed != ALL:
            raise ValueError(f"`fixed` names a value of one label, got {fixed!r} for {len(columns)} labels. Give one column")
        nuisances = None if columns is None else numbered(columns)
        labels = labels_of_rows(groups) if nuisances is None else nuisances.combined
        if len(labels) != len(rows):
            raise ValueError(
                f"`groups` must hold one label per row, got {len(labels)} labels for {len(rows)} rows. Give them in the order "
                "of the rows, or columns of labels as a data frame"
            )
        values, numbers = numbers_of(labels)
        if fixed == ALL and nuisances is None and (ranges := cut_into_ranges(labels)) is not labels:
            labels = ranges
            values, numbers = numbers_of(labels)
        self.values: tuple[Hashable, ...] = tuple(values) if fixed == ALL else (fixed,)
        self.n_groups = len(self.values)
        self._counts = dict(zip(values, numbers.bincount().tolist(), strict=True))
        self._check_values()
        if fixed == ALL and nuisances is None:
            refuse_single_rows(len(values), rows=len(labels))
            warn_of_many(len(values), batch_size=batch_size)
        self._group_of_row = numbers if fixed == ALL else torch.full_like(numbers, -1)
        streams = {} if fixed == ALL else {"group": (numbers == values.index(fixed)).nonzero()[:, 0]}
        streams["population"] = torch.arange(len(labels), device="cpu")
        if nuisances is not None:
            self.values, self.n_groups, self._group_of_row = nuisances.values, len(nuisances.values), nuisances.groups
            counts = nuisances.groups[nuisances.groups >= 0].bincount(minlength=self.n_groups).tolist()
            self._counts = dict(zip(self.values, counts, strict=True))
        self._check_sizes(self._share[1] if self._share else 1)
        self._described = ", ".join(f"{value!r}: {self._counts[value]}" for value in self.values)
        self._checksum = checksum(numbers)
        self._orders: dict[str, Order] = {name: EpochOrder(each, seed=seed, name=name) for name, each in streams.items()}
        classes = [] if balance is None else labels_of_rows(balance, "balance")
        self.left_out = 0 if collate_fn else tensors_left_out(rows, labels, classes)
        if balance is not None:
            cells = cells_to_balance(values, numbers, classes)
            self._orders = {name: CellOrder(each, cells[each], seed=seed, name=name) for name, each in streams.items()}
            self._checksum += checksum(cells)
        elif (known_classes := classes_at_hand(rows, labels)) is not None:
            warn_if_confounded(labels, known_classes, "Give one class per row as `balance` to draw evenly")
        self._warns = fixed == ALL and balance is None and nuisances is None
        self._warn_of_a_lone_group()
        self._drawn = 0

    @property
    def seed(self) -> int:
        """Seed of the order, which is fixed when the sampler is made."""
        return self._seed

    @property
    def rows(self) -> int:
        """Number of rows of the auxiliary set."""
        return len(self._group_of_row)

    def _check_values(self) -> None:
        index, shown = self._counts, _shown(self._counts)
        if self.fixed == ALL and ALL in index:
            raise ValueError('`groups` has a label value "all", which means every value in `fixed`. Rename this label value')
        if self.fixed != ALL and self.fixed not in index:
            raise ValueError(f"`fixed` must be a label value that occurs, got {self.fixed!r}; rows per value: {shown}")
        if len(index) < 2:
            raise ValueError(
                f"`groups` must hold at least two label values, got one; rows per value: {shown}. Add rows of another group"
            )

    def _check_sizes(self, world_size: int) -> None:
        joint = self.batch_size * world_size
        asked = f"`batch_size` {self.batch_size}" + (f" x {world_size} ranks" if world_size > 1 else "")
        if self.fixed != ALL and self._counts[self.fixed] < joint:
            raise ValueError(
                f"the group {self.fixed!r} has {self._counts[self.fixed]} rows, fewer than {asked}; rows per value: "
                f"{_shown(self._counts)}. Lower `batch_size` or set `fixed` to another value"
            )
        if (total := self.rows) < joint:
            raise ValueError(f"the set has {total} rows, fewer than {asked}. Lower `batch_size`")

    def _warn_of_a_lone_group(self) -> None:
        if self._share and self._warns:
            warn_of_a_lone_group(self._counts, batch_size=self.batch_size, ranks=self._share[1])

    def next_batch(self) -> GroupBatch:
        """Draw the next batch: ``batch_size`` rows with ``fixed="all"``, twice as many with one fixed value.

        Returns:
            A :class:`GroupBatch`; with one fixed value the group's rows come first.
        """
        if not self._agreed:
            new = self._share is None
            self._share = agree_on_share(self._share)
            self._agreed = True
            if new:
                self._check_sizes(self._share[1])
                self._warn_of_a_lone_group()
        assert self._share is not None
        jobs = partial(_jobs, list(self._orders.values()), self.batch_size, *self._share)
        _, rows = next(jobs(self._drawn))
        images = self._workers.read(self._drawn, jobs) if self._workers else self._reader.read(rows)
        self._drawn += 1
        groups = self._group_of_row[rows]
        population = torch.ones(len(rows), dtype=torch.bool, device="cpu")
        if self.fixed != ALL:
            groups[: self.batch_size] = 0
            population[: self.batch_size] = False
        return GroupBatch(images, groups, population)

    def close(self) -> None:
        """End the worker processes; the next draw starts others at the same position."""
        if self._workers:
            self._workers.close()

    def __iter__(self) -> Iterator[GroupBatch]:
        """Draw batches without end; the sampler is its own iterator, because its position is part of its state."""
        return self

    def __next__(self) -> GroupBatch:
        return self.next_batch()

    def state_dict(self) -> dict[str, Any]:
        """Return the number of drawn batches and the settings; the position needs nothing else."""
        return {"drawn": self._drawn} | self.identity()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved position.

        Raises:
            ValueError: if the state belongs to a sampler with another seed, batch size or set of groups.
        """
        for name, value in self.identity().items():
            if state[name] != value:
                raise ValueError(f"the state was saved with `{name}` {state[name]}, this sampler has {value}")
        if type(state["drawn"]) is not int or state["drawn"] < 0:
            raise ValueError(f"the state must hold the number of drawn batches, got `drawn` {state['drawn']!r}")
        self._drawn = state["drawn"]

    def draws_like(self, other: object) -> bool:
        """Whether another sampler draws from the same rows by the same labels; the order may differ."""
        if not isinstance(other, GroupSampler) or other._given is not self._given:
            return False
        return (other.values, other._checksum) == (self.values, self._checksum)

    def __repr__(self) -> str:
        groups = f"{self.n_groups} groups" if self.fixed == ALL else f"fixed={self.fixed!r}"
        return f"GroupSampler({self.rows} rows, {groups}, batch_size={self.batch_size}, seed={self.seed})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "GroupSampler":
        copied = copy.copy(self)  # the copies can share the rows, because no code writes to them
        copied._workers = copy.copy(self._workers)
        copied._orders = {name: copy.copy(order) for name, order in self._orders.items()}
        return copied

    def identity(self) -> dict[str, Any]:
        """Return the settings that must be equal on every rank and in a resumed run: the set, its order and its batches."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "groups": self._described,
            "checksum of the rows' labels": self._checksum,
        }


def _jobs(orders: Sequence[Order], batch_size: int, rank: int, world_size: int, number: int) -> Iterator[Job]:
    """Yield the numbers of batches, from ``number`` on, each with the numbers of its rows."""
    places = rank + world_size * torch.arange(batch_size, device="cpu")
    while True:
        start = number * batch_size * world_size
        yield number, torch.cat([order.rows(start + places) for order in orders])
        number += 1


def _shown(counts: dict[Hashable, int]) -> str:
    return ", ".join(f"{value!r}: {count}" for value, count in list(counts.items())[:20])
