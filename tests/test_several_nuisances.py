"""Several nuisance labels at once: one critic, one auxiliary forward, the gap averaged over the values of all labels."""

import math
import warnings

import pandas as pd
import pytest
import torch
from ranks import run_on_ranks
from torch import nn
from torch.testing import assert_close

from wdpurify import GroupSampler, PurifyRegularizer
from wdpurify.exceptions import AuxiliaryDataWarning
from wdpurify.functional import gap_weights

ROWS = 240
SEX = [("f", "m")[row % 2] for row in range(ROWS)]
SITE = ["abc"[row // 2 % 3] for row in range(ROWS)]


def _rows():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn((ROWS, 8), generator=generator)
    rows[:, 0] += torch.tensor([1.5 * (value == "m") for value in SEX])
    rows[:, 1] += torch.tensor([1.5 * "abc".index(value) for value in SITE])
    return rows


FORMS = {
    "a mapping": {"sex": SEX, "site": SITE},
    "a data frame": pd.DataFrame({"sex": SEX, "site": SITE}).sample(frac=1.0, random_state=0).sort_index(),
    "a list of columns": [SEX, SITE],
    "an array": torch.tensor([[SEX[row] == "m", "abc".index(SITE[row])] for row in range(ROWS)]),
}


@pytest.mark.parametrize("groups", FORMS.values(), ids=FORMS)
def test_columns_give_each_row_a_group_of_each(groups):
    sampler = GroupSampler(_rows(), groups, batch_size=12)
    assert sampler.n_groups == 5
    assert len(sampler.values) == 5
    batch = sampler.next_batch()
    assert batch.groups.shape == (12, 2)
    assert batch.population.all()
    whole = sampler._group_of_row
    assert whole[:, 0].bincount(minlength=5).tolist() == [120, 120, 0, 0, 0]
    assert whole[:, 1].bincount(minlength=5).tolist() == [0, 0, 80, 80, 80]


def test_labels_that_are_tuples_are_one_label():
    assert GroupSampler(_rows(), list(zip(SEX, SITE, strict=True)), batch_size=12).n_groups == 6


def test_the_gap_is_the_mean_over_all_values_and_a_missing_label_is_in_no_group():
    groups = torch.tensor([[0, 2], [1, 2], [0, -1], [1, 3]])
    population = torch.ones(4, dtype=torch.bool)
    expected = torch.stack(
        [
            torch.tensor([0.5, 0.0, 0.5, 0.0]),
            torch.tensor([0.0, 0.5, 0.0, 0.5]),
            torch.tensor([0.5, 0.5, 0.0, 0.0]),
            torch.tensor([0.0, 0.0, 0.0, 1.0]),
        ],
        dim=1,
    )
    assert_close(gap_weights(groups, population, 4), (expected - 0.25) / 4)


def test_a_missing_label_does_not_lose_the_row_for_the_others():
    site = [None if row % 5 == 0 else value for row, value in enumerate(SITE)]
    age = [float("nan") if row % 7 == 0 else 20.0 + row % 50 for row in range(ROWS)]
    with pytest.warns(AuxiliaryDataWarning, match="cut into ranges"):
        sampler = GroupSampler(_rows(), {"sex": SEX, "site": site, "age": age}, batch_size=12)
    assert sampler.rows == ROWS
    assert sampler.n_groups == 2 + 3 + 4
    assert ((sampler._group_of_row < 0).sum(0)).tolist() == [0, 48, 35]


def _separations(purify, model):
    """How far apart the means of the groups of each label are, in standard deviations."""
    with torch.no_grad():
        features = model[:2](_rows())
    found = []
    for labels in (SEX, SITE):
        means = [features[[row for row, label in enumerate(labels) if label == value]].mean(0) for value in sorted(set(labels))]
        found.append(float(torch.stack(means).std(0).norm() / features.std(0).norm()))
    return found


def _trained(groups, strength, steps=150):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    purify = PurifyRegularizer.for_model(model, GroupSampler(_rows(), groups, batch_size=32), strength=strength)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows, labels = torch.randn((64, 8), generator=generator), torch.randint(2, (64,), generator=generator)
        rows[:, 2] += 2.0 * labels
        rows[:, :2] += labels[:, None]
        criterion(model(rows), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, purify


def test_one_critic_brings_the_groups_of_both_labels_together():
    apart = _separations(*reversed(_trained({"sex": SEX, "site": SITE}, 0.0)))
    together = _separations(*reversed(_trained({"sex": SEX, "site": SITE}, 2.0)))
    assert all(after < 0.7 * before for before, after in zip(apart, together, strict=True))


def test_both_labels_are_erased_and_the_report_is_their_mean():
    model, purify = _trained(
        {"sex": SEX, "site": [None if row % 5 == 0 else site for row, site in enumerate(SITE)]}, 0.0, steps=30
    )
    report = purify.erase()
    assert report.directions == 3
    assert report.chance == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert report.before > report.chance + 0.15 > report.after
    assert math.isfinite(model(_rows()).sum().item())


def test_a_state_of_several_labels_goes_on_and_one_of_another_set_is_refused():
    _, purify = _trained({"sex": SEX, "site": SITE}, 0.5, steps=5)
    _, other = _trained({"sex": SEX, "site": SITE}, 0.5, steps=1)
    other.load_state_dict(purify.state_dict())
    assert other.sampler.state_dict() == purify.sampler.state_dict()
    _, fewer = _trained({"sex": SEX, "half": [site == "a" for site in SITE]}, 0.5, steps=1)
    with pytest.raises(ValueError, match="other widths"):
        fewer.load_state_dict(purify.state_dict())


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ({"sex": SEX, "one": ["x"] * ROWS}, {}, "at least two values in column 'one'"),
        ({"sex": SEX, "site": SITE}, {"fixed": "m"}, "`fixed` names a value of one label"),
    ],
)
def test_columns_that_do_not_fit_are_refused(groups, options, message):
    with pytest.raises(ValueError, match=message):
        GroupSampler(_rows(), groups, batch_size=12, **options)


def test_cells_of_all_labels_and_the_class_are_drawn_evenly():
    classes = [row // 6 % 2 for row in range(ROWS)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler = GroupSampler(_rows(), {"sex": SEX, "site": SITE}, balance=classes, batch_size=12)
    groups = torch.cat([sampler.next_batch().groups for _ in range(10)])
    assert groups[:, 0].bincount().tolist() == [60, 60]
    assert groups[:, 1].bincount().tolist() == [0, 0, 40, 40, 40]


def on_ranks():
    import torch.distributed as dist

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    world = dist.get_world_size() if dist.is_initialized() else 1
    sampler = GroupSampler(_rows(), {"sex": SEX, "site": SITE}, batch_size=24 // world)
    purify = PurifyRegularizer(model[0], sampler, feature_dim=16)
    for _ in range(3):
        purify.critic_step()
        purify.optimizer_stepped()
    return purify.metrics().separation


def test_ranks_share_the_groups_of_all_labels(tmp_path):
    alone = on_ranks()
    for separation in run_on_ranks(on_ranks, tmp_path):
        assert separation == pytest.approx(alone, abs=1e-4)
