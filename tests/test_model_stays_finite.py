"""Whatever auxiliary rows hold, no weight of the user's model becomes non-finite through them."""

import math
import warnings

import pytest
import torch
from ranks import run_on_ranks
from torch import nn

from wdpurify import BalancedStrength, FixedStrength, GroupSampler, PurifyRegularizer


class _Standardised(nn.Module):
    """Divides each image by its own spread, as per-image standardisation does: a black image gives 0 / 0."""

    def forward(self, images):
        return (images - images.mean((1, 2, 3), keepdim=True)) / images.std((1, 2, 3), keepdim=True)


def _model(norm, standardised=False):
    layers = [
        _Standardised() if standardised else nn.Identity(),
        nn.Conv2d(3, 8, 3, stride=2),
        norm(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 6),
    ]
    return nn.Sequential(*layers, nn.Linear(6, 4))


NORMS = {"batch": nn.BatchNorm2d, "group": lambda width: nn.GroupNorm(2, width), "none": lambda width: nn.Identity()}


def _images(bad):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((32, 3, 8, 8), generator=generator) + (torch.arange(32) % 2)[:, None, None, None]
    images[5] = torch.zeros(3, 8, 8) if bad == "black" else images[5]
    if bad != "black":
        images[5, 0, 2, 2] = bad
    return images


def _train(model, purify, steps=9):
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(model(torch.rand(12, 3, 8, 8)), torch.randint(4, (12,))).backward()
        optimizer.step()


@pytest.mark.parametrize("strength", [BalancedStrength(1.0, fade=0), FixedStrength(1.0)], ids=["balanced", "fixed"])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, 3e38, "black"])
def test_one_bad_row_ruins_nothing(bad, norm, strength):
    model = _model(norm, standardised=bad == "black")
    sampler = GroupSampler(_images(bad), [row % 2 for row in range(32)], batch_size=16)
    purify = PurifyRegularizer.for_model(model, sampler, strength=strength, every=1)
    _train(model, purify)
    for name, value in model.state_dict().items():
        assert value.isfinite().all(), name
    assert all(value.isfinite().all() for value in purify.critic.state_dict().values())
    assert purify.strength.value > 0
    assert purify.metrics().dropped_rows in (0.0, 1.0, 16.0)


def test_rows_beside_a_bad_one_go_on_pulling():
    model = _model(NORMS["batch"])
    sampler = GroupSampler(_images(math.nan), [row % 2 for row in range(32)], batch_size=32)
    purify = PurifyRegularizer.for_model(model, sampler, strength=FixedStrength(1.0), every=1)
    _train(model, purify, steps=3)
    metrics = purify.metrics()
    assert metrics.dropped_rows == 1
    assert metrics.gradient_ratio > 0


def test_a_bad_row_does_not_reach_the_batch_statistics_of_the_others():
    def features(images):
        torch.manual_seed(0)
        model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 6))
        sampler = GroupSampler(images, [row % 2 for row in range(32)], batch_size=32)
        purify = PurifyRegularizer(model, sampler, feature_dim=6, every=1, strength=0.0)
        purify.critic_step()
        return purify.metrics().feature_norm

    clean = features(_images(0.5))
    assert abs(features(_images(math.inf)) - clean) < 0.1 * clean


def test_a_row_of_dicts_is_blanked_in_each_floating_entry():
    class Extract(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, pixels, count):
            return self.linear(pixels) * count[:, None]

    rows = [{"pixels": torch.full((4,), math.nan if row == 3 else 1.0 * row), "count": torch.tensor(row)} for row in range(20)]
    extract = Extract()
    purify = PurifyRegularizer(extract, GroupSampler(rows, [0, 1] * 10, batch_size=20), every=1, strength=FixedStrength(1.0))
    purify.critic_step()
    features = extract(torch.ones(2, 4), torch.ones(2))
    (features.sum() + purify.loss(features)).backward()
    assert extract.linear.weight.grad.isfinite().all()
    assert purify.metrics().dropped_rows == 1


def one_bad_rank():
    warnings.filterwarnings("ignore", ".*% of the auxiliary rows")
    torch.manual_seed(0)
    model = _model(NORMS["batch"])
    wrapped = nn.parallel.DistributedDataParallel(model)
    images = torch.rand(64, 3, 8, 8)
    images[::2, 0, 0, 0] = math.nan  # the rows of rank 0, or of rank 1, whichever draws them
    sampler = GroupSampler(images, [row // 2 % 2 for row in range(64)], batch_size=16)
    purify = PurifyRegularizer.for_model(wrapped, sampler, strength=FixedStrength(1.0), every=1)
    _train(wrapped, purify, steps=5)
    return {**model.state_dict(), **{"critic." + name: value for name, value in purify.critic.state_dict().items()}}


def test_bad_rows_on_one_rank_ruin_no_rank(tmp_path):
    for state in run_on_ranks(one_bad_rank, tmp_path):
        assert all(value.isfinite().all() for value in state.values())
