"""What was renamed works for one version, and says what to write instead."""

import pytest
import torch
from small_loop import small_sampler
from torch import nn

from wdpurify import GroupBatch, GroupSampler, PurifyRegularizer, exceptions


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("DeadCriticWarning", "CriticWarning"),
        ("UnlikeImagesWarning", "FeatureScaleWarning"),
        ("SilentTapWarning", "PullNotAppliedWarning"),
        ("RareGroupWarning", "AuxiliaryDataWarning"),
        ("FreshStartWarning", "ResumeWarning"),
    ],
)
def test_a_former_class_of_warnings_is_the_present_one(former, now):
    with pytest.warns(DeprecationWarning, match=f"`{former}` is now `{now}`"):
        assert getattr(exceptions, former) is getattr(exceptions, now)


def test_there_are_seven_classes_beside_the_base_and_no_others():
    kinds = [
        kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, exceptions.PurifyWarning)
    ]
    assert len(kinds) == 8
    with pytest.raises(AttributeError, match="NoSuchWarning"):
        exceptions.NoSuchWarning  # noqa: B018


def test_term_is_loss_without_an_argument():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4))
    purify = PurifyRegularizer.for_model(model, small_sampler())
    model(torch.rand(4, 3, 8, 8)).sum()
    with pytest.warns(DeprecationWarning, match=r"`term\(\)` is now `loss\(\)`"):
        assert purify.term().requires_grad


def test_measured_is_all_of_as_dict():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4))
    purify = PurifyRegularizer.for_model(model, small_sampler())
    model(torch.rand(4, 3, 8, 8)).sum()
    purify.loss()
    figures = purify.metrics()
    with pytest.warns(DeprecationWarning, match=r"`measured\(\)` is now `as_dict\(everything=True\)`"):
        assert figures.measured() == figures.as_dict(everything=True)
    assert set(figures.as_dict("")) <= {"separation", "separation_by_chance", "gradient_ratio", "spread_kept"}
    assert len(figures.as_dict("", everything=True)) > 10


def test_the_rows_of_a_sampler_come_by_their_former_name_too():
    rows, groups = torch.arange(8.0)[:, None], list("aaaabbbb")
    with pytest.warns(DeprecationWarning, match="`images` is now `rows`") as caught:
        former = GroupSampler(images=rows, groups=groups, batch_size=4)
    assert caught[0].filename == __file__
    now = GroupSampler(rows=rows, groups=groups, batch_size=4)
    assert torch.equal(former.next_batch().images, now.next_batch().images)


def test_a_sampler_of_ones_own_constructs_a_batch_by_keyword():
    batch = GroupBatch(images=torch.zeros(2, 1), groups=torch.arange(2), population=torch.ones(2, dtype=torch.bool))
    assert batch._fields == ("images", "groups", "population")
