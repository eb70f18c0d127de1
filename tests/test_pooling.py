"""How tokens become one row: the mean, the first, the last that is not padding, or what the user's function says."""

import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from wdpurify import FixedStrength, GroupSampler, PurifyRegularizer
from wdpurify.features import pool_features, unpooled

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
        (lambda features, mask: features[:, 2] * mask.sum(1, keepdim=True), MASK, FEATURES[:, 2] * MASK.sum(1, keepdim=True)),
    ],
)
def test_tokens_are_pooled_as_named(pool, mask, expected):
    assert_close(pool_features(FEATURES, 3, pool=pool, mask=mask), expected)


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_the_gradient_goes_to_the_tokens_that_were_read(pool):
    gradient = unpooled(FEATURES, torch.ones(2, 3), pool=pool, mask=MASK)
    reached = (gradient != 0).all(2)
    expected = {"mean": MASK.bool(), "first": torch.tensor([[1, 0, 0, 0]] * 2).bool()}
    expected["last"] = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1]]).bool()
    assert torch.equal(reached, expected[pool])
    assert_close(gradient.sum(1), torch.ones(2, 3))


@pytest.mark.parametrize("rows", [lambda features, mask: features, lambda features, mask: features[:1, 0]])
def test_a_function_that_gives_no_row_per_sample_is_named(rows):
    with pytest.raises(ValueError, match=r"`pool` must return one row of features per sample, shape \(2, 3\)"):
        pool_features(FEATURES, 3, pool=rows)


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
