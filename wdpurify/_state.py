"""The state of a regularizer: collects it from the parts, and checks a loaded one before any part changes."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ._torch import gather_objects, local_part, rank_and_world
from .critic import CriticTrainer
from .exceptions import ResumeWarning
from .features import AuxiliaryForward

#: Version of the format; increases whenever entries change their meaning.
VERSION = 8
#: Prefix of the entries of a prepared pull.
PULL = "loop.pull."
#: Suffixes of entries with NaN for missing measurements; among these, task gradients may be infinite.
MAY_BE_NAN = ("strength.values", "strength.weights", "spread.values", "task_gradients.rows")
MEASURED = "task_gradients.rows"
#: Limit of the magnitude of every number in a state.
LARGEST = 1e18


class Checkpoint:
    """Saves and loads a regularizer: the critic, which all ranks share, and the figures, counts and position of each rank.

    Args:
        options: options that must be equal when a state is loaded, by name.
        trainer: the critic.
        parts: the other parts with a state, by name; the sampler's name is ``"sampler"``.
        forward: the auxiliary forward, for the model's device.
    """

    def __init__(
        self, options: Mapping[str, object], trainer: CriticTrainer, parts: Mapping[str, Any], forward: AuxiliaryForward
    ) -> None:
        self._options = {name: describe(value) for name, value in options.items()}
        self._trainer = trainer
        self._parts = {**parts, "forward": forward}
        self._forward = forward

    def state_dict(self, *, all_ranks: bool = False) -> dict[str, Any]:
        """Return the state as tensors and primitives, of this rank or of all ranks, which then must all call this."""
        entries = self._own()
        critic = self._trainer.state_dict()
        if self._parts["loop"].before_step is not None:
            critic["spread"] = self._parts["loop"].before_step["critic"]["spread"].detach().cpu().clone()
        ranks = gather_objects(entries, device=self._forward.place()[0]) if all_ranks and self._place[1] > 1 else [entries]
        return {
            "version": VERSION,
            "options": dict(self._options),
            **critic,
            "rank": list(self._place),
            "ranks": ranks,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state completely, or raise ValueError without a change."""
        before = self.state_dict()
        check_state(state, options=self._options, like=before, parameters=dict(self._forward.model.named_parameters()))
        try:
            self._take_over(state)
        except Exception as error:
            self._take_over(before)
            if isinstance(error, ValueError | Warning):
                raise
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"`state` is damaged ({what}): go on from an earlier checkpoint") from error

    def _own(self) -> dict[str, Any]:
        """Return the entries of this rank; for a signal handler inside an auxiliary step, those before the step."""
        held = self._parts["loop"].before_step or {}
        states = {name: held.get(name, part) for name, part in self._parts.items()}
        states = {name: state if isinstance(state, dict) else state.state_dict() for name, state in states.items()}
        return {f"{name}.{leaf}": value for name, state in states.items() for leaf, value in state.items()}

    @property
    def _place(self) -> tuple[int, int]:
        return rank_and_world() if getattr(self._parts["sampler"], "across_ranks", True) else (0, 1)

    def _take_over(self, state: dict[str, Any]) -> None:
        entries = _own_state(state, *self._place)
        with torch.inference_mode(False):
            self._trainer.load_state_dict(state)
            for name, part in self._parts.items():
                part.load_state_dict(entries_of(name, entries))


def _own_state(state: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """Return the entries for this rank; without them, those of another rank between two iterations, with a warning."""
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
        ResumeWarning,
        stacklevel=5,
    )
    return _between_iterations(ranks[rank % len(ranks)])


def _between_iterations(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if not name.startswith(PULL)} | {"loop.open": False}


def describe(value: object) -> str:
    """Describe an option by a text that is equal in every process."""
    if isinstance(value, str | int | float):
        return str(value)
    return repr(value) if dataclasses.is_dataclass(value) else f"{type(value).__qualname__}"


def check_state(
    state: object, *, options: Mapping[str, str], like: Mapping[str, Any], parameters: Mapping[str, Tensor]
) -> None:
    """Refuse a state from which this regularizer cannot continue.

    Args:
        state: result of ``state_dict()``, in this process or another.
        options: descriptions of this regularizer's options.
        like: present state of this regularizer; the saved one must have the same entries, types and shapes.
        parameters: the model's parameters, by name.

    Raises:
        ValueError: with the first difference and the remedy.
    """
    if not isinstance(state, Mapping) or (missing := [name for name in like if name not in state]):
        lacks = f", it lacks {', '.join(map(repr, missing))}" if isinstance(state, Mapping) else f", got {type(state).__name__}"
        raise ValueError(f"`state` must be what `PurifyRegularizer.state_dict()` returned{lacks}")
    if state["version"] != VERSION:
        raise ValueError(
            f"`state` has version {state['version']}, this wdpurify reads {VERSION}: go on with the wdpurify that saved it"
        )
    for name, own in options.items():
        saved = state["options"].get(name) if isinstance(state["options"], Mapping) else None
        if saved != own:
            raise ValueError(f"`state` was saved with `{name}` {saved}, this regularizer has {own}: make it with the same")
    shapes = {name: tuple(value.shape) for name, value in like["critic"].items()}
    saved_shapes = {name: tuple(getattr(value, "shape", ())) for name, value in dict(state["critic"]).items()}
    if saved_shapes != shapes:
        raise ValueError(f"`state` was saved with a critic of other widths: {saved_shapes}, this one has {shapes}")
    for entry in ("critic", "optimizer", "spread"):
        _check_like(state[entry], like[entry], entry)
    ranks, rank = state["ranks"], state["rank"]
    if not (isinstance(rank, list) and [type(number) for number in rank] == [int, int] and 0 <= rank[0] < rank[1]):
        raise _damaged("rank")
    if not (isinstance(ranks, list) and len(ranks) in (1, rank[1])):
        raise _damaged("ranks")
    own = ranks[like["rank"][0] % len(ranks)]  # each rank checks its own entries, because shards may differ in size
    if not isinstance(own, Mapping):
        raise _damaged("ranks")
    _check_rank(own, like["ranks"][0], parameters)


def _check_rank(entries: Any, like: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> None:
    pulls = {name for name in entries if name.startswith(PULL)}
    of_others = ("sampler.", "controller.strength.")  # objects of the caller may have any entries
    for name in {*like, *entries}:
        if name.startswith((PULL, of_others[0])):
            continue
        if name not in entries or (name not in like and not name.startswith(of_others[1])):
            raise _damaged(name)
        _check_like(entries[name], like.get(name, entries[name]), name)
    gradients = sorted(name for name in pulls if name.startswith(f"{PULL}gradient."))
    if pulls and entries.get(f"{PULL}gradients") != [name.removeprefix(f"{PULL}gradient.") for name in gradients]:
        raise _damaged(f"{PULL}gradients")
    for name in pulls - {f"{PULL}gradients"}:
        parameter = parameters.get(name.removeprefix(f"{PULL}gradient."))
        if name != f"{PULL}value" and parameter is None:
            raise _damaged(name)
        shape = () if parameter is None else tuple(local_part(parameter).shape)
        if (
            not isinstance(entries[name], Tensor)
            or tuple(entries[name].shape) != shape
            or not entries[name].is_floating_point()
        ):
            raise _damaged(name)
        _check_like(entries[name], entries[name], name)
    if pulls and f"{PULL}value" not in pulls:
        raise _damaged(f"{PULL}value")


def _check_like(value: Any, like: Any, name: str) -> None:
    """Refuse a value, also a nested one, with a type or shape unlike ``like``, or beyond the limit."""
    if name == "forward.autocast":
        if value is not None and not (isinstance(value, list) and len(value) == 2 and all(isinstance(n, str) for n in value)):
            raise _damaged(name)
    elif isinstance(value, Mapping) and isinstance(like, Mapping):
        if value.keys() != like.keys():
            raise _damaged(name)
        for key in value:
            _check_like(value[key], like[key], f"{name}.{key}")
    elif type(value) is not type(like):
        raise _damaged(name)
    elif isinstance(value, list | tuple):
        if len(value) != len(like):
            raise _damaged(name)
        for number, item in enumerate(value):
            _check_like(item, like[number], f"{name}.{number}")
    elif isinstance(value, Tensor):
        if (value.dtype, value.shape) != (like.dtype, like.shape) or not _is_usable(value, name):
            raise _damaged(name)
    elif isinstance(value, int | float) and not -1 <= value < LARGEST:
        raise _damaged(name)


def _is_usable(value: Tensor, name: str) -> bool:
    if not value.is_floating_point():
        return True
    if name.endswith(MAY_BE_NAN):
        value = value.nan_to_num(posinf=0.0 if name.endswith(MEASURED) else torch.inf)
    return bool((value.abs() < LARGEST).all())


def _damaged(name: str) -> ValueError:
    return ValueError(f"`state` is damaged in its entry {name!r}: go on from an earlier checkpoint")


def entries_of(part: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of one part, without the prefix of its name."""
    return {name.removeprefix(f"{part}."): value for name, value in entries.items() if name.startswith(f"{part}.")}
