"""The blocks of docs/loops/recipes.md that need a library of their own; the others run with the README's."""

import re
from pathlib import Path

import pytest
import torch
from small_loop import equal_states, small_sampler, state_of
from torch import nn

from wdpurify import BalancedStrength

PAGE = Path(__file__).parent.parent / "docs" / "loops" / "recipes.md"


def _block(library):
    blocks = re.findall(r"```py\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (block,) = [block for block in blocks if f"from {library}" in block]
    return block


def _module():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4))


def test_skorch():
    pytest.importorskip("skorch")
    trained = []
    for strength in ("BalancedStrength(1.0, fade=0.0)", "0.0"):
        torch.manual_seed(0)
        scope = {
            "torch": torch,
            "BalancedStrength": BalancedStrength,
            "module": _module(),
            "sampler": small_sampler(),
            "images": torch.rand(256, 3, 8, 8, generator=torch.Generator().manual_seed(1)).numpy(),
            "labels": (torch.arange(256) % 4).numpy(),
        }
        exec(_block("skorch").replace("sampler)", f"sampler, strength={strength})"), scope)
        assert scope["purify"].sampler.state_dict()["drawn"] == 4  # two epochs of 205 training rows in batches of 128
        trained.append(state_of(scope["net"].module_))
    assert not equal_states(*trained)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_fastai_with_mixup():
    pytest.importorskip("fastai")
    from fastai.callback.mixup import MixUp
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat

    torch.manual_seed(0)
    rows = [(torch.rand(3, 8, 8), torch.tensor(row % 4)) for row in range(64)]
    loaders = DataLoaders.from_dsets(rows, rows, bs=16, device="cpu", num_workers=0)
    learner = Learner(loaders, _module(), loss_func=CrossEntropyLossFlat(), cbs=MixUp())
    scope = {"learner": learner, "sampler": small_sampler()}
    exec(_block("fastai").replace("sampler)", "sampler)"), scope)
    assert scope["purify"].sampler.state_dict()["drawn"] == 4
    assert scope["purify"].metrics().gradient_ratio >= 0
