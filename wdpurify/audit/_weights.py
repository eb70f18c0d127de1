"""Loads weights from a file into a model without running code, and only if every key is the model's."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ._optional import optional
from ._strangers import check_archive
from ._text import shown


def load_weights(model: nn.Module, file: Path, *, leave_out: tuple[str, ...] = ()) -> None:
    """Load a ``state_dict()`` from a file of torch or safetensors; prefixes of DDP and ``torch.compile`` are cut off.

    So is the name of a module around the model, such as Lightning's ``model.``, with what else that module holds.

    Args:
        model: whose weights they are.
        file: holds the weights, or a checkpoint with them under ``state_dict`` or ``model``.
        leave_out: beginnings of the keys to pass over.

    Raises:
        ValueError: if there is no such file, it holds no weights, or not those of the model.
    """
    own = model.state_dict()
    state = {key: value for key, value in _of_the_model(_read(file), own).items() if not key.startswith(leave_out)}
    odd = {
        "missing": own.keys() - state.keys(),
        "unknown to the model": state.keys() - own.keys(),
        "of another shape": {key for key in own.keys() & state.keys() if own[key].shape != state[key].shape},
    }
    if any(odd.values()):
        found = "; ".join(f"{what}: {_some(keys, own, state)}" for what, keys in odd.items() if keys)
        raise ValueError(
            f"`weights` {shown(str(file))} do not fit the model. {found}. Name the backbone, with its options, that they were "
            "saved from, or save them anew from this one: torch.save(model.state_dict(), FILE)"
        )
    model.load_state_dict(state)


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise ValueError(f"`weights` {shown(str(file))}: there is no such file")
    models = optional("timm.models", "reading weights")
    try:
        check_archive(file)
        state = models.load_state_dict(str(file), use_ema=False, device="cpu", weights_only=True)
    except Exception as error:  # of torch, of pickle, of safetensors, or of what a file holds in place of weights
        why = shown(f"{type(error).__name__}: {error}", 200)
        raise ValueError(
            f"`weights` {shown(str(file))} must hold a state dict and nothing that runs code; save `model.state_dict()`; {why}"
        ) from error
    if odd := [key for key, value in state.items() if not _is_dense(value)]:
        raise ValueError(
            f"`weights` {shown(str(file))} must hold dense tensors alone, under `state_dict` or `model` where there is more; "
            f"no such tensors are {', '.join(shown(str(key), 60) for key in odd[:5])}"
        )
    return dict(state)


def _is_dense(value: object) -> bool:
    """Whether this is a tensor that can be copied into a parameter."""
    odd = isinstance(value, Tensor) and (
        value.is_meta or value.is_nested or value.is_quantized or value.layout != torch.strided
    )
    return isinstance(value, Tensor) and not odd


def _of_the_model(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the model's part of a larger module's state dict, if all of the model is in it under one name."""
    first = next(iter(own), "")
    above = [key.removesuffix(first) for key in state if first and key.endswith("." + first)]
    whole = [name for name in above if all(name + key in state for key in own)]
    if first in state or len(whole) != 1:
        return state
    return {key.removeprefix(whole[0]): value for key, value in state.items() if key.startswith(whole[0])}


def _some(keys: Iterable[str], own: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """List the first few keys, with both shapes if these differ."""
    named = sorted(keys)
    both = {key: f" {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in named if key in own and key in state}
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return ", ".join(shown(key, 80) + both.get(key, "") for key in named[:5]) + more
