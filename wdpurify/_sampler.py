"""GroupSampler: batches of auxiliary rows, in a seeded order that a few integers describe."""

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ._balance import CellOrder, classes_at_hand, numbered_cells, warn_if_confounded, warn_of_cells
from ._checks import check_positive_integer
from ._images import batch_of, by_position
from ._labels import check_not_too_many, index_by_value, labels_of_rows, warn_of_a_lone_group
from ._torch import agreed_share, checked_share, checksum, derive_seed

ALL = "all"


class GroupBatch(NamedTuple):
    """A batch of auxiliary rows.

    Attributes:
        images: what the extractor takes, batched along the first dimension.
        groups: index of the critic output that a row belongs to, int64, shape ``(batch,)``; -1 for none.
        population: whether a row stands for the whole auxiliary set, bool, shape ``(batch,)``.
    """

    images: Any
    groups: Tensor
    population: Tensor


class Sampler(Protocol):
    """What the regularizer asks of a sampler; any source of batches with these members will do."""

    n_groups: int

    def next_batch(self) -> GroupBatch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class GroupSampler:
    """Draws auxiliary batches by group label.

    With ``fixed="all"`` a batch is ``batch_size`` rows of the whole set: each row belongs to the group of its own label
    and to the population. With one label value it is the paper's pair: ``batch_size`` rows of that label (A), then
    ``batch_size`` rows of the whole set (B).

    Order: every stream (the group, the whole set) is a seeded permutation per epoch, so that each row comes once before any
    comes twice; a batch that crosses an epoch's end is filled from the next permutation. The order depends on ``seed``
    alone. With n ranks, rank r takes rows r, r + n, ... of each joint batch of n times ``batch_size`` rows: the
    ranks of one step never share a row of an epoch, and together draw what one process would.

    Args:
        images: tensor, array or any indexable with a length, read by the row's number; an item may be a tuple whose first
            member is the image, or a dict, whose entries the extractor then gets by keyword. Labels come from ``groups`` alone:
            no image is read before it is drawn.
        groups: one label per row (list, tuple, tensor or array of one dimension): text, a number, a date or a tuple of such.
        fixed: one label value, or ``"all"``.
        balance: one class per row, where the rows have classes that go with the groups, as the task's own rows do: groups are
            compared at equal class shares, by drawing evenly over the cells of group and class. Each row comes once before
            any other *of its cell* comes twice.
        batch_size: rows per group (m in the paper), at least 1 and at most the size of the group and of the set.
        seed: seed of the order.
        transform: applied to each batch of images after drawing, for example to scale bytes to floats.
        rank, world_size: this process's share; None takes those of ``torch.distributed`` at the first draw, 0 of 1 without it.
            A ``world_size`` of 1 says that this process is by itself: its regularizer then trains a critic of its own.

    Raises:
        TypeError: if a label cannot be hashed or reads differently in another process, or ``images`` or ``groups`` is a mapping
            or a set.
        ValueError: if lengths differ, a label is missing (None or NaN), hardly two rows share one (a continuous column),
            ``fixed`` names no label or every row, a group is smaller than ``batch_size`` times the ranks, the set has one
            label only, each class of ``balance`` has one group only, or only one of ``rank`` and ``world_size`` is given.

    >>> sampler = GroupSampler(torch.arange(6.0)[:, None], list("aabbbb"), fixed="a", batch_size=2)
    >>> batch = sampler.next_batch()
    >>> batch.groups.tolist(), batch.population.tolist(), sorted(batch.images[:2, 0].tolist())
    ([0, 0, -1, -1], [False, False, True, True], [0.0, 1.0])
    """

    def __init__(
        self,
        images: Any,
        groups: Sequence[Hashable] | Tensor,
        *,
        fixed: Hashable = ALL,
        balance: Sequence[Hashable] | Tensor | None = None,
        batch_size: int = 32,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.batch_size = check_positive_integer("batch_size", batch_size)
        self._share = checked_share(rank, world_size)
        self.across_ranks = world_size != 1
        self._agreed = False
        self.seed = seed
        self.fixed = fixed
        self._given = images
        self._images = by_position(images)
        self._transform = transform
        labels = labels_of_rows(groups)
        if len(labels) != len(images):
            raise ValueError(f"`groups` must hold one label per image: got {len(labels)} labels for {len(images)} images")
        index = index_by_value(labels)
        self.values: tuple[Hashable, ...] = tuple(index) if fixed == ALL else (fixed,)
        self.n_groups = len(self.values)
        self._check_values(index)
        if fixed == ALL:
            check_not_too_many(len(index), rows=len(labels), batch_size=batch_size)
        self._counts = {value: len(rows) for value, rows in index.items()}
        self._check_sizes(self._share[1] if self._share else 1)
        whole = torch.arange(len(labels), device="cpu")
        numbers = torch.empty(len(labels), dtype=torch.int64, device="cpu")
        for number, rows in enumerate(index.values()):
            numbers[rows] = number
        self._group_of_row = numbers if fixed == ALL else torch.full_like(numbers, -1)
        self._streams = {"population": whole} if fixed == ALL else {"group": index[fixed], "population": whole}
        self._described = ", ".join(f"{value!r}: {self._counts[value]}" for value in self.values)
        self._checksum = checksum(numbers)
        self._balanced: dict[str, CellOrder] = {}
        if balance is not None:
            classes = labels_of_rows(balance)
            cells = numbered_cells(labels, classes)
            warn_of_cells(labels, classes)
            self._balanced = {name: CellOrder(rows, cells[rows], seed=seed, name=name) for name, rows in self._streams.items()}
            self._checksum += checksum(cells)
        elif (known := classes_at_hand(images, labels)) is not None:
            warn_if_confounded(labels, known, "draw evenly, by `balance=` with one class per row")
        self._warn_of_a_lone_group()
        self._drawn = 0
        self._orders: dict[str, tuple[int, Tensor]] = {}

    @property
    def rows(self) -> int:
        """How many rows the auxiliary set has."""
        return sum(self._counts.values())

    def _check_values(self, index: dict[Hashable, Tensor]) -> None:
        shown = _shown({value: len(rows) for value, rows in index.items()})
        if self.fixed == ALL and ALL in index:
            raise ValueError('`groups` has a label value "all", which `fixed` cannot tell from every value: rename it')
        if self.fixed != ALL and self.fixed not in index:
            raise ValueError(f"`fixed` must be a label value that occurs, got {self.fixed!r}; rows per value: {shown}")
        if len(index) < 2:
            raise ValueError(
                f"`groups` must hold at least two label values, or the group is the whole set; rows per value: {shown}"
            )

    def _check_sizes(self, world_size: int) -> None:
        joint = self.batch_size * world_size
        asked = f"`batch_size` {self.batch_size}" + (f" x {world_size} ranks" if world_size > 1 else "")
        if self.fixed != ALL and self._counts[self.fixed] < joint:
            raise ValueError(
                f"the group {self.fixed!r} has {self._counts[self.fixed]} rows, fewer than {asked}; "
                f"lower `batch_size` or fix another value; rows per value: {_shown(self._counts)}"
            )
        if (total := sum(self._counts.values())) < joint:
            raise ValueError(f"the set has {total} rows, fewer than {asked}; lower `batch_size`")

    def _warn_of_a_lone_group(self) -> None:
        if self._share and self.fixed == ALL and not self._balanced:
            warn_of_a_lone_group(self._counts, batch_size=self.batch_size, ranks=self._share[1])

    def next_batch(self) -> GroupBatch:
        """The next batch: ``batch_size`` rows with ``fixed="all"``, twice as many with one fixed value.

        Returns:
            A :class:`GroupBatch`; with one fixed value the group's rows come first.
        """
        if not self._agreed:
            new = self._share is None
            self._share = agreed_share(self._share)
            self._agreed = True
            if new:
                self._check_sizes(self._share[1])
                self._warn_of_a_lone_group()
        assert self._share is not None
        rows = torch.cat([self._next_rows(name, *self._share) for name in self._streams])
        self._drawn += 1
        groups = self._group_of_row[rows]
        population = torch.ones(len(rows), dtype=torch.bool, device="cpu")
        if "group" in self._streams:
            groups[: self.batch_size] = 0
            population[: self.batch_size] = False
        images = batch_of(self._images, rows)
        return GroupBatch(self._transform(images) if self._transform else images, groups, population)

    def _next_rows(self, name: str, rank: int, world_size: int) -> Tensor:
        stream = self._streams[name]
        start = self._drawn * self.batch_size * world_size + rank
        places = start + world_size * torch.arange(self.batch_size, device="cpu")
        if name in self._balanced:
            return self._balanced[name].rows(places)
        first = int(places[0]) // len(stream)
        last = int(places[-1]) // len(stream)
        orders = [self._order(name, epoch) for epoch in range(first, last + 1)]
        order = orders[0] if first == last else torch.cat(orders)
        return stream[order[places - first * len(stream)]]

    def _order(self, name: str, epoch: int) -> Tensor:
        if self._orders.get(name, (-1,))[0] != epoch:
            generator = torch.Generator("cpu").manual_seed(derive_seed(self.seed, name, epoch))
            self._orders[name] = epoch, torch.randperm(len(self._streams[name]), generator=generator, device="cpu")
        return self._orders[name][1]

    def state_dict(self) -> dict[str, Any]:
        """How many batches were drawn; with the constructor's arguments that is the whole position."""
        return {"drawn": self._drawn} | self.identity()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            ValueError: if the state belongs to a sampler with another seed, batch size or set of groups.
        """
        for name, mine in self.identity().items():
            if state[name] != mine:
                raise ValueError(f"the state was saved with `{name}` {state[name]}, this sampler has {mine}")
        if type(state["drawn"]) is not int or state["drawn"] < 0:
            raise ValueError(f"the state must hold the number of batches drawn, got `drawn` {state['drawn']!r}")
        self._drawn = state["drawn"]

    def draws_like(self, other: object) -> bool:
        """Whether another sampler draws from the same images by the same labels, in whatever order."""
        if not isinstance(other, GroupSampler) or other._given is not self._given:
            return False
        return (other.values, other._checksum) == (self.values, self._checksum)

    def __deepcopy__(self, memo: dict[int, Any]) -> "GroupSampler":
        copied = copy.copy(self)  # the rows are never written to
        copied._orders = {}
        copied._balanced = {name: copy.copy(order) for name, order in self._balanced.items()}
        return copied

    def identity(self) -> dict[str, Any]:
        """What must be alike on every rank, and in a run that goes on: the set, its order and the batches drawn from it."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "groups": self._described,
            "checksum of the rows' labels": self._checksum,
        }


def _shown(counts: dict[Hashable, int]) -> str:
    return ", ".join(f"{value!r}: {count}" for value, count in list(counts.items())[:20])
