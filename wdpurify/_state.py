"""The state of a regularizer: gathered from its parts, and checked before any of it is taken over."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ._game import Game
from ._sampler import Sampler
from ._torch import of_every_rank, rank_and_world
from .critic import CriticTrainer
from .exceptions import InexactResumeWarning
from .features import AuxiliaryForward

#: Raised whenever the entries of a state change their meaning.
VERSION = 6
ENTRIES = ("version", "options", "critic", "optimizer", "spread", "rank", "ranks")


class Checkpoint:
    """What a regularizer saves and loads.

    Args:
        options: those that a state must have been saved with, by name.
        trainer, game, sampler, forward: the parts that have a state.
    """

    def __init__(
        self,
        options: Mapping[str, object],
        trainer: CriticTrainer,
        game: Game,
        sampler: Sampler,
        forward: AuxiliaryForward,
    ) -> None:
        self._options = {name: described(value) for name, value in options.items()}
        self._trainer = trainer
        self._parts: dict[str, Any] = {"game": game, "sampler": sampler, "forward": forward}

    def state_dict(self, *, all_ranks: bool = False) -> dict[str, Any]:
        """The state of all parts, as tensors and primitives; of all ranks, which then all must call this, or of this one."""
        mine = {name: part.state_dict() for name, part in self._parts.items()}
        device = self._parts["forward"].place()[0]
        ranks = of_every_rank(mine, device=device) if all_ranks and self._place[1] > 1 else [mine]
        return {
            "version": VERSION,
            "options": dict(self._options),
            **self._trainer.state_dict(),
            "rank": list(self._place),
            "ranks": ranks,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state, or none of it; raises ValueError."""
        check_state(state, options=self._options, critic=self._trainer.critic)
        before = self.state_dict()
        try:
            self._take_over(state)
        except Exception as error:
            self._take_over(before)
            if isinstance(error, ValueError | Warning):
                raise
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"`state` is damaged ({what}): go on from an earlier checkpoint") from error

    @property
    def _place(self) -> tuple[int, int]:
        return rank_and_world() if getattr(self._parts["sampler"], "across_ranks", True) else (0, 1)

    def _take_over(self, state: dict[str, Any]) -> None:
        parts = _own_state(state, *self._place)
        with torch.inference_mode(False):
            self._trainer.load_state_dict(state)
            for name, part in self._parts.items():
                part.load_state_dict(parts[name])


def _own_state(state: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """What a state holds for this rank; where it holds only another's, that one's between two iterations, with a warning."""
    ranks, (saver, savers) = state["ranks"], state["rank"]
    if len(ranks) == world > 1:
        return dict(ranks[rank])
    if savers == world == 1:
        return dict(ranks[0])
    if len(ranks) == 1 and (saver, savers) == (rank, world):
        return _between_iterations(ranks[0])  # as on the other ranks, which cannot go on inside one
    held = f"rank {saver} alone of {savers}" if len(ranks) < savers else f"{savers} ranks"
    warnings.warn(
        f"`state` holds {held}, and rank {rank} of {world} loads it: the run goes on, but not bit for bit; save with "
        "`state_dict(all_ranks=True)`, called by every rank, and go on with equally many",
        InexactResumeWarning,
        stacklevel=5,
    )
    return _between_iterations(ranks[rank % len(ranks)])


def _between_iterations(parts: Mapping[str, Any]) -> dict[str, Any]:
    game = parts["game"]
    return {**parts, "game": {**game, "prepared": None, "iterations": {**game["iterations"], "stepped": True}}}


def described(value: object) -> str:
    """An option as text that is the same in every process."""
    if isinstance(value, str | int | float):
        return str(value)
    return repr(value) if dataclasses.is_dataclass(value) else f"{type(value).__qualname__}"


def check_state(state: object, *, options: Mapping[str, str], critic: nn.Module) -> None:
    """Refuse a state that this regularizer cannot go on from.

    Args:
        state: what ``state_dict()`` returned, in this process or another.
        options: of this regularizer, described.
        critic: of this regularizer.

    Raises:
        ValueError: with what differs, and how to go on.
    """
    if not isinstance(state, Mapping) or (missing := [name for name in ENTRIES if name not in state]):
        lacks = f", it lacks {', '.join(map(repr, missing))}" if isinstance(state, Mapping) else f", got {type(state).__name__}"
        raise ValueError(f"`state` must be what `PurifyRegularizer.state_dict()` returned{lacks}")
    if state["version"] != VERSION:
        raise ValueError(
            f"`state` has version {state['version']}, this wdpurify reads {VERSION}: go on with the wdpurify that saved it"
        )
    for name, mine in options.items():
        saved = state["options"].get(name)
        if saved != mine:
            raise ValueError(f"`state` was saved with `{name}` {saved}, this regularizer has {mine}: make it with the same")
    shapes = {name: tuple(value.shape) for name, value in critic.state_dict().items()}
    saved_shapes = {name: tuple(value.shape) for name, value in state["critic"].items()}
    if saved_shapes != shapes:
        raise ValueError(f"`state` was saved with a critic of other widths: {saved_shapes}, this one has {shapes}")
    for entry in ("critic", "optimizer", "spread"):
        if not all(tensor.isfinite().all() for tensor in _floating(state[entry])):
            raise ValueError(f"`state` holds numbers that are not finite in its {entry}: go on from an earlier checkpoint")


def _floating(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if torch.is_floating_point(value) else []
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _floating(part)]
