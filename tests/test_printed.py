"""What a public object prints shows its options."""

import torch
from torch import nn

from wdpurify import BalancedStrength, FixedStrength, GradientPenalty, GroupSampler, OneSided, PurifyRegularizer


def test_a_printed_regularizer_shows_model_layer_sampler_and_options():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    sampler = GroupSampler(torch.rand(12, 4), ["a", "b", "c"] * 4, batch_size=6)
    text = repr(PurifyRegularizer.for_model(model, sampler, every=2, objective=OneSided()))
    for part in (
        "FeatureTap(Sequential, layer='2')",
        "sampler=GroupSampler(12 rows, 3 groups, batch_size=6, seed=0)",
        "feature_dim=6",
        "objective=OneSided(toward='population')",
        "strength=BalancedStrength(0.5, fade=0.2, keep=0.5, most=1.5)",
        f"constraint={GradientPenalty(10.0)!r}",
        "every=2",
    ):
        assert part in text


def test_printed_strengths_make_the_same_ones():
    for strength in (FixedStrength(0.25), BalancedStrength(2.0, fade=0.0, keep=0.9, most=1.0)):
        assert repr(eval(repr(strength))) == repr(strength)
    assert repr(GroupSampler(torch.rand(6, 2), list("aabbbb"), fixed="a", batch_size=2)) == (
        "GroupSampler(6 rows, fixed='a', batch_size=2, seed=0)"
    )
