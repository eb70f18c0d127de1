"""How tokens become one row: the mean, the first, the last that is not padding, or what the user's function says."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from wdpurify import FixedStrength, GroupSampler, PurifyRegularizer
from wdpurify.exceptions import AuxiliaryDataWarning
from wdpurify.features import FeatureTap, pool_features, unpool
from wdpurify.features.classifier import reads_channels_first

FEATURES = torch.arange(24.0).view(2, 4, 3)
MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])  # padded on the right, padded on the left


@pytest.mark.parametrize(
    ("pool", "mask", "expected"),
    [
        ("mean", None, FEATURES.mean(1)),
        ("first", MASK, FEATURES[:, 0]),
        ("last", None, FEATURES[:, 3]),
        ("last", MASK, torch.stack([FEATURES[0, 1], FEATURES[1, 3]])),
        ("mean", MASK, torch.stack([FEATURES[0, :2].mean(0), FEATURES[1, 1:].mean(0)])),
        ("mean", torch.ones(2, 9), FEATURES.mean(1)),  # a mask of other tokens
        ("mean", MASK[:, :3], FEATURES.mean(1)),
        (lambda features, mask: features[:, 2] * mask.sum(1, keepdim=True), MASK, FEATURES[:, 2] * MASK.sum(1, keepdim=True)),
    ],
)
def test_tokens_are_pooled_as_named(pool, mask, expected):
    assert_close(pool_features(FEATURES, 3, pool=pool, mask=mask), expected)


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_the_gradient_goes_to_the_tokens_that_were_read(pool):
    gradient = unpool(FEATURES, torch.ones(2, 3), pool=pool, mask=MASK)
    reached = (gradient != 0).all(2)
    expected = {"mean": MASK.bool(), "first": torch.tensor([[1, 0, 0, 0]] * 2).bool()}
    expected["last"] = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1]]).bool()
    assert torch.equal(reached, expected[pool])
    assert_close(gradient.sum(1), torch.ones(2, 3))


@pytest.mark.parametrize("rows", [lambda features, mask: features, lambda features, mask: features[:1, 0]])
def test_a_function_that_gives_no_row_per_sample_is_named(rows):
    with pytest.raises(ValueError, match=r"`pool` must return one row of features per sample, shape \(2, 3\)"):
        pool_features(FEATURES, 3, pool=rows, samples=2)


class _Causal(nn.Module):
    """Classifies from the last token that is not padding, as causal language models do."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.score = nn.Linear(6, 2)

    def forward(self, input_ids, attention_mask):
        scores = self.score(self.embed(input_ids))
        return scores[torch.arange(len(scores)), (attention_mask * torch.arange(scores.shape[1])).argmax(1)]


def _rows():
    rows = []
    for row in range(24):
        length = 2 + row % 3
        tokens = torch.full((6,), 10)  # 10 pads
        tokens[:length] = 1 + row % 2
        rows.append({"input_ids": tokens, "attention_mask": (torch.arange(6) < length).long()})
    return rows


@pytest.mark.parametrize(("pool", "padding_is_pulled"), [("last", False), ("mean", False)])
def test_padding_is_left_out_of_a_causal_classifiers_features(pool, padding_is_pulled):
    model = _Causal()
    sampler = GroupSampler(_rows(), [row % 2 for row in range(24)], batch_size=12)
    purify = PurifyRegularizer.for_model(model, sampler, pool=pool, every=1, strength=FixedStrength(1.0))
    assert purify.tap.layer == "score"
    (0.0 * model(torch.ones(3, 6, dtype=torch.long), torch.ones(3, 6)).sum() + purify.loss()).backward()
    pulled = model.embed.weight.grad.norm(dim=1) > 0
    assert pulled[1]
    assert pulled[10] == padding_is_pulled
    assert purify.metrics().separation != 0


def test_the_pull_through_pooled_tokens_has_the_strength_that_was_asked_for():
    """The norm is that of the gradient at the tokens, wherever the pooling sends it."""
    for pool in ("mean", "first", "last"):
        model = _Causal()
        sampler = GroupSampler(_rows(), [row % 2 for row in range(24)], batch_size=12)
        purify = PurifyRegularizer.for_model(model, sampler, pool=pool, every=1, strength=FixedStrength(1.0))
        model(torch.ones(3, 6, dtype=torch.long), torch.ones(3, 6)).sum()
        purify.loss()
        applied = purify._loop._controller.prepared_norm
        critic_norm = purify.metrics().critic_gradient_norm
        assert applied <= critic_norm * (1 + 1e-5)
        assert (applied < 0.9 * critic_norm) == (pool == "mean")


def _signals(dims, size, channels=8):
    """Model, task rows and auxiliary rows whose groups differ in the first two channels and not in their sum."""
    torch.manual_seed(0)
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    model = nn.Sequential(convolution(channels, channels, 1, bias=False), nn.Tanh(), convolution(channels, 3, 1))
    nn.init.dirac_(model[0].weight)
    shape, sign = (channels, *[size] * dims), 2 * torch.tensor([0, 1] * 32)[:, None] - 1
    auxiliary = torch.randn(64, *shape)
    auxiliary.flatten(2)[:, 0] += sign
    auxiliary.flatten(2)[:, 1] -= sign
    return model, torch.randn(16, *shape), auxiliary


def _separation(model, rows, auxiliary, **options):
    sampler = GroupSampler(auxiliary, [0, 1] * 32, batch_size=16)
    purify = PurifyRegularizer.for_model(model, sampler, strength=0.0, **options)
    criterion, labels = purify.criterion(nn.CrossEntropyLoss()), torch.zeros(16, *rows.shape[2:], dtype=torch.long)
    for _ in range(60):
        model.zero_grad()
        criterion(model(rows), labels).backward()
    return purify.metrics().separation


@pytest.mark.parametrize(
    "options", [{}, {"pool": lambda features, mask: features.flatten(2).mean(2)}], ids=["mean", "function"]
)
@pytest.mark.parametrize(("dims", "size"), [(1, 8), (1, 20), (2, 8), (3, 4), (3, 8)])
def test_signals_and_volumes_are_pooled_over_their_places(dims, size, options):
    assert _separation(*_signals(dims, size), **options) > 0.9


def test_the_tapped_layer_tells_which_of_two_equal_axes_are_the_channels():
    features = torch.randn(2, 8, 8)
    for layer, first in (
        (nn.Conv1d(8, 3, 1), True),
        (nn.BatchNorm1d(8), True),
        (nn.Linear(8, 3), False),
        (nn.LayerNorm(8), False),
    ):
        tap = FeatureTap(nn.Sequential(layer), "0")
        pooled = pool_features(features, 8, channels_first=tap.channels_first)
        assert_close(pooled, features.mean(2 if first else 1))
    maps = torch.randn(2, 8, 4, 8)
    tap = FeatureTap(nn.Sequential(nn.Linear(8, 3)), "0")
    assert_close(pool_features(maps, 8, channels_first=tap.channels_first), maps.mean((1, 2)))
    assert_close(pool_features(maps, 8), maps.mean((2, 3)))
    assert_close(pool_features(maps, 8, pool="last"), maps.mean((2, 3)))
    pooling = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))
    assert FeatureTap(nn.Sequential(pooling), "0").channels_first
    assert FeatureTap(nn.Sequential(nn.Identity()), "0").channels_first is None


def test_two_equal_axes_without_a_layer_are_read_as_tokens_and_the_remedy_for_time_works():
    features = torch.randn(2, 8, 8)
    with pytest.warns(AuxiliaryDataWarning, match=r"are read as \(batch, tokens, 8\)") as warned:
        assert_close(pool_features(features, 8), features.mean(1))
    (time,) = (eval(line) for line in re.findall(r"`pool=(.+?)`", str(warned[0].message)))
    assert_close(pool_features(features, 8, pool=time), features.mean(2))
    assert_close(pool_features(features, 8, pool="last"), features[:, -1])
    assert_close(pool_features(features, 8, mask=torch.ones(2, 8)), features.mean(1))


def test_a_head_that_registers_its_linear_layer_before_its_pooling_reads_maps():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 2)
            self.pool = nn.AdaptiveAvgPool2d(1)

    assert reads_channels_first(Head())
    assert reads_channels_first(nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)))
    assert reads_channels_first(nn.TransformerEncoderLayer(16, 2, batch_first=True)) is False
    assert reads_channels_first(nn.Sequential(nn.Flatten(), nn.Linear(16, 2))) is None


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4, 5, 6, 8), (2, 7, 9)])
def test_other_shapes_are_refused_with_a_function_as_remedy(shape):
    with pytest.raises(ValueError, match=r"`features` must have shape .*or give `pool=` a function"):
        pool_features(torch.zeros(shape), 8)


def test_padding_is_left_out_of_signals_too():
    signals = FEATURES.transpose(1, 2)
    assert_close(pool_features(signals, 3, mask=MASK), pool_features(FEATURES, 3, mask=MASK))


class LastToken(nn.Module):
    """Scores every token and keeps the scores of one, as causal language models classify."""

    def __init__(self, read):
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.head = nn.Linear(6, 2)
        self.read = read

    def forward(self, rows):
        return self.read(self.head(self.embed(rows)))


@pytest.mark.parametrize(
    ("read", "pool", "said"),
    [
        (lambda scores: scores[:, -1], "mean", True),
        (lambda scores: scores[:, 0], "mean", True),
        (lambda scores: scores[:, -1], "last", False),
        (lambda scores: scores.mean(1), "mean", False),
        (lambda scores: 0.0 * scores.mean(1), "mean", False),
    ],
)
def test_a_classifier_that_reads_one_token_is_named_where_all_are_pooled(read, pool, said):
    torch.manual_seed(0)
    groups = [row % 2 for row in range(32)]
    model = LastToken(read)
    purify = PurifyRegularizer.for_model(model, GroupSampler(torch.randn(32, 5, 4), groups, batch_size=8), pool=pool)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            criterion(model(torch.randn(8, 5, 4)), torch.arange(8) % 2).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert [str(each.message).startswith("The task's gradient arrives at one token") for each in caught] == [True] * said
