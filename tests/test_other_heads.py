"""Where several layers may be the classifier, the one taken and the others are named."""

import warnings

import pytest
import torch
from torch import nn

from wdpurify import GroupSampler, PurifyRegularizer
from wdpurify.exceptions import PullNotAppliedWarning


class _Model(nn.Module):
    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, rows):
        for child in self.children():
            rows = child(rows)
        return rows


def _body(width=16):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU())


def _adversary(width=16):
    return nn.Sequential(nn.Identity(), nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, 2))


AMBIGUOUS = {
    "an adversary made last": (_Model(body=_body(), fc=nn.Linear(16, 3), adversary=_adversary()), "adversary.3", "fc"),
    "two tasks": (_Model(body=_body(), colour=nn.Linear(16, 3), shape=nn.Linear(16, 5)), "shape", "colour"),
    "a decoder": (_Model(body=_body(), fc=nn.Linear(16, 3), rebuild=nn.Linear(16, 8)), "rebuild", "fc"),
    "further in": (_Model(net=_Model(body=_body(), fc=nn.Linear(16, 3), gate=nn.Linear(16, 2))), "net.gate", "net.fc"),
}
CLEAR = {
    "named": _Model(body=_body(), classifier=nn.Linear(16, 3), adversary=_adversary()),
    "one after the other": _Model(fc1=nn.Linear(8, 16), fc2=nn.Linear(16, 16), fc3=nn.Linear(16, 3)),
    "a sequence": nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)),
    "widths that differ": _Model(body=_body(), narrow=nn.Linear(16, 4), fc=nn.Linear(4, 3)),
}


def _sampler():
    return GroupSampler(torch.randn(24, 8), [0, 1] * 12, batch_size=8)


@pytest.mark.parametrize(("model", "taken", "other"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_the_layer_taken_and_the_others_are_named(model, taken, other):
    with pytest.warns(PullNotAppliedWarning, match=rf"'{taken}' is taken, and '{other}' read"):
        purify = PurifyRegularizer.for_model(model, _sampler())
    assert purify.tap.layer == taken
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert PurifyRegularizer.for_model(model, _sampler(), layer=other).tap.layer == other


@pytest.mark.parametrize("model", CLEAR.values(), ids=CLEAR)
def test_nothing_is_said_where_there_is_one(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert PurifyRegularizer.for_model(model, _sampler()).tap.feature_dim in (4, 8, 16)
