"""Features whose rows are no samples (frames in the batch, views, sequences before samples): refused, or folded by `pool`."""

import re

import pytest
import torch
from torch import nn

from wdpurify import GroupSampler, OneSided, PurifyRegularizer

GROUPS = [0, 1] * 32
LABELS = torch.arange(32) % 3


class _Frames(nn.Module):
    """Folds the frames of a clip into the batch."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Linear(6, 16), nn.ReLU()), nn.Linear(16, 3)

    def forward(self, clips):
        return self.fc(self.body(clips.flatten(0, 1))).unflatten(0, clips.shape[:2]).mean(1)


class _Views(_Frames):
    """Sees each sample twice, one view after the other."""

    def forward(self, clips):
        return self.fc(self.body(torch.cat([clips[:, 0], clips[:, 1]]))).unflatten(0, (2, -1)).mean(0)


class _Recurrent(nn.Module):
    """Sequences come before samples."""

    def __init__(self):
        super().__init__()
        self.recurrent, self.fc, self.norm = nn.LSTM(6, 16), nn.Linear(16, 3), nn.BatchNorm1d(3)

    def forward(self, clips):
        return self.norm(self.fc(self.recurrent(clips.transpose(0, 1))[0]).mean(0))


def _trained(make, length, steps=40, **options):
    """A regularizer after some steps; auxiliary groups differ by 3 in every number."""
    torch.manual_seed(0)
    model, clips, auxiliary = make(), torch.rand(32, length, 6), torch.rand(64, length, 6)
    auxiliary[::2] += 3
    purify = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, GROUPS, batch_size=8), layer="fc", **options)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(model(clips), LABELS).backward()
        optimizer.step()
    return purify


@pytest.mark.parametrize(
    ("make", "length", "rows", "remedy"),
    [(_Frames, 4, 32, 0), (_Views, 2, 16, 1), (_Recurrent, 5, 5, 0)],
    ids=["frames", "views", "sequences first"],
)
def test_another_number_of_rows_is_refused_with_both_numbers_and_the_fold_given_works(make, length, rows, remedy):
    with pytest.raises(ValueError, match=rf"one row per sample, got {rows} rows .* for 8 auxiliary samples") as error:
        _trained(make, length)
    folds = re.findall(r"`pool=(.+?)`", str(error.value))
    for objective in ({}, {"objective": OneSided()}):
        purify = _trained(make, length, pool=eval(folds[remedy]), strength=0.01, **objective)
        figures = purify.metrics()
        assert figures.separation > 3 * figures.separation_by_chance


@pytest.mark.parametrize("pool", ["mean", "last", lambda features, mask: features.mean(1)], ids=["mean", "last", "function"])
def test_sequences_as_long_as_the_batch_are_not_taken_for_samples(pool):
    with pytest.raises(ValueError, match=r"one row .*per sample.* (for 4|\(4)"):
        _trained(_Recurrent, 8, pool=pool)
    purify = _trained(_Recurrent, 8, pool=lambda features, mask: features.mean(0), strength=0.0)
    assert purify.metrics().separation > 3 * purify.metrics().separation_by_chance


class _Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.norm, self.fc = nn.Linear(6, 16), nn.BatchNorm1d(8), nn.Linear(16, 3)

    def forward(self, clips):
        return self.fc(self.norm(self.body(clips))).mean(1)


def test_tokens_as_many_as_the_batch_are_taken_and_the_look_at_them_leaves_no_trace():
    torch.manual_seed(0)
    model = _Tokens()
    sampler = GroupSampler(torch.rand(64, 8, 6), GROUPS, batch_size=8)
    purify = PurifyRegularizer.for_model(model, sampler, update_statistics=True)
    purify.critic_step()
    assert model.norm.num_batches_tracked == 1
    assert purify.metrics().dropped_rows == 0


def test_erasing_refuses_rows_that_are_no_samples():
    for make, length, rows, samples in ((_Frames, 4, 32, 8), (_Recurrent, 8, 8, 4)):
        purify = _trained(make, length, steps=0)
        with pytest.raises(ValueError, match=rf"one row per sample, got {rows} rows .* for {samples} auxiliary samples"):
            purify.erase()
