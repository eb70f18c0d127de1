"""The benchmark on one's own rows: balanced batches, group DRO, and what is reported."""

import json
import sys
from dataclasses import replace
from functools import partial

import own_labels
import pytest
import torch
from purifybench.faces import sets
from purifybench.faces.sets import HAIR, TASK_SETS, partner
from purifybench.methods import OWN_ROWS_METHODS, Run, auxiliary, told_classes
from purifybench.methods.balanced import BalancedBatches, GroupRobust
from purifybench.methods.told_classes import WeightedGap, WithinClass, mark_classes
from purifybench.network import Network
from purifybench.tasks import biased_colour, cartoon_faces, on_own_rows, to_float
from purifybench.training import Settings, train
from torch import nn
from torch.testing import assert_close

from wdpurify import GroupSampler, functional
from wdpurify.functional import gap_weights

pytestmark = pytest.mark.filterwarnings(
    "ignore::wdpurify.exceptions.AuxiliaryDataWarning"
)  # ten colours, ten classes, 800 rows
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task():
    return on_own_rows(biased_colour.build(seed=0, keep_colours=True))


def _made(kind, task, **options):
    network = Network(nn.Flatten(), 10, feature_dim=768)
    return kind(Run(network, task, steps=10), **options)


def test_the_auxiliary_rows_are_the_training_rows_with_both_labels(task):
    assert task.auxiliary.images is task.train.images
    assert task.auxiliary.groups == task.train.groups.tolist()
    assert task.auxiliary.classes == task.train.labels.tolist()
    with pytest.raises(ValueError, match="come without their irrelevant label"):
        on_own_rows(biased_colour.build(seed=0))


def test_balanced_batches_draw_every_cell_equally_often(task):
    method = _made(BalancedBatches, task)
    drawn = torch.cat([method.rows(step, torch.arange(64)) for step in range(100)])
    cells = 10 * task.train.groups + task.train.labels
    counts = cells[drawn].bincount(minlength=100)[cells.unique()]
    expected = 6400 / len(counts)
    assert (counts - expected).abs().max() < 5 * expected**0.5
    assert torch.equal(method.rows(3, torch.arange(64)), method.rows(3, torch.arange(64)))


def test_group_dro_weighs_the_worst_cell_most(task):
    method = _made(GroupRobust, task, step_size=1.0)
    method.drawn = torch.arange(64)
    images = torch.rand(64, 3, 16, 16)
    before = method.importance.clone()
    loss = method.loss(images, task.train.labels[:64])
    each = nn.functional.cross_entropy(method.network(images), task.train.labels[:64], reduction="none")
    cells = method.cells[:64]
    means = torch.stack(
        [each[cells == cell].mean() if (cells == cell).any() else each.new_zeros(()) for cell in range(len(before))]
    )
    raised = before * means.exp()
    assert torch.allclose(method.importance, raised / raised.sum())
    assert torch.allclose(loss, (method.importance * means).sum())
    assert method.importance.argmax() == means.argmax()


@pytest.mark.filterwarnings("ignore::wdpurify.exceptions.ForeignHeadWarning")  # A few steps train no head.
@pytest.mark.parametrize("name", list(OWN_ROWS_METHODS))
def test_every_method_trains_and_is_measured_by_its_worst_cell(name, task):
    outcome = train(task, OWN_ROWS_METHODS[name], Settings(steps=3), device=CPU, on_upper=name == "upper bound")
    assert 0 <= outcome.measures["worst cell"] <= outcome.accuracy["shifted"]


def test_a_critic_within_each_class_is_told_the_true_class_of_each_row(task, monkeypatch):
    drawn = []

    def sampler(images, *rest, **named):
        drawn.append(images)
        return GroupSampler(images, *rest, **named)

    monkeypatch.setattr(auxiliary, "GroupSampler", sampler)
    network = Network(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 10, feature_dim=3)
    WithinClass(Run(network, task), balance=True)
    read = told_classes.Told(network.features, 10)(to_float(drawn[0]))
    assert torch.equal(read[:, :3], network.features(to_float(task.train.images)))
    assert torch.equal(read[:, 3:].argmax(1), task.train.labels)
    assert torch.equal(read[:, 3:].sum(1), torch.ones(len(read)))


def test_weights_in_the_gap_give_each_class_of_a_group_an_equal_share(task):
    network = Network(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)), 10, feature_dim=3)
    method = WeightedGap(Run(network, task))
    images = to_float(mark_classes(task).auxiliary.images[:400])
    assert torch.equal(method.reading(images), network.features(images[:, :3]))
    groups = torch.tensor(task.auxiliary.groups[:400])
    classes = task.train.labels[:400]
    weights = method.weights_of_cells(groups, torch.ones(400, dtype=torch.bool), 10)
    group, other = groups.bincount().argsort(descending=True)[:2].tolist()
    members = groups == group
    as_members = weights[members, group] - weights[members, other]  # what they weigh as part of the whole is in both
    shares = torch.zeros(10).index_add(0, classes[members], as_members)
    assert len(shares[shares > 0]) > 1
    assert shares[shares > 0].std(unbiased=False) < 1e-6 < shares.max()
    assert weights.sum(0).abs().max() < 1e-6
    method.loss(to_float(task.train.images[:8]), task.train.labels[:8]).backward()
    assert functional.gap_weights is gap_weights


def test_a_table_per_bias_and_a_plot_over_the_biases(tmp_path, monkeypatch):
    options = ["--tasks", "colour", "--biases", "0.5", "1.0", "--seeds", "0", "1", "--steps", "3", "--workers", "1"]
    chosen = ["--methods", "balanced batches", "wdpurify, balanced", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["own_labels.py", *options, *chosen])
    own_labels.main()
    keys = [json.loads(line)["key"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    balanced = {"plain", "balanced batches"}
    assert {key["method"] for key in keys if key["data"]["bias"] == 1.0} == balanced  # there the library refuses the rest
    assert {key["method"] for key in keys if key["data"]["bias"] == 0.5} == balanced | {"wdpurify, balanced"}
    assert "wdpurify, balanced" in (tmp_path / "colour-0.5" / "report.md").read_text()
    assert (tmp_path / "colour-bias.png").stat().st_size > 10_000
    rows = (tmp_path / "accuracy.csv").read_text().splitlines()
    assert len(rows) > 12


def test_the_shapes_are_trained_like_the_pictures_by_a_network_and_steps_of_their_own():
    given = own_labels.Arguments()
    planned = own_labels.plan("shapes", 0.9, given)
    job = next(iter(planned.reported_jobs({})))
    assert (job.settings.backbone, job.settings.steps, job.settings.recipe.optimizer) == ("small-pool", 400, "adamw")
    task = own_labels.build_task(job, arguments=given)
    assert task.auxiliary.classes == task.train.labels.tolist()
    assert own_labels.plan("shapes", 0.9, replace(given, steps=3)).settings.steps == 3


def test_the_faces_come_with_their_hair_colour_and_are_tested_on_their_own_people(faces_cache, monkeypatch):
    monkeypatch.setattr(sets, "SPLITS", {"train": 120, "validation": 6, "test": 24})
    monkeypatch.setattr(sets, "AUXILIARY_ROWS", 6)
    monkeypatch.setattr(own_labels.cartoon_faces, "build", partial(cartoon_faces.build, image_size=16))
    given = own_labels.Arguments(cache=faces_cache)
    job = next(iter(own_labels.plan("ck-like", 0.95, given).reported_jobs({})))
    assert (job.settings.backbone, job.settings.steps, job.settings.batch_size) == ("small-bn", 500, 64)
    task = own_labels.build_task(job, arguments=given)
    assert list(task.tests) == ["within", "unbiased"]
    assert task.auxiliary.classes == task.train.labels.tolist()
    of_expression = torch.tensor([HAIR.index(partner(TASK_SETS["ck-like"], number)) for number in range(6)])
    paired = (task.train.groups == of_expression[task.train.labels]).float().mean()
    assert abs(paired - (0.95 + 0.05 / len(HAIR))) < 0.06
    test = task.tests["unbiased"]
    assert torch.bincount(test.labels * 6 + test.groups).tolist() == [4] * 36  # each person with every hair
    usual = cartoon_faces.build(seed=0, train="ck-like", cache=faces_cache, keep_hair=True)
    assert torch.equal(usual.train.images, task.train.images)
    theirs = usual.tests["unbiased"]
    for number in range(3):
        (same,) = [row for row in range(6 * number, 6 * number + 6) if test.groups[row] == theirs.groups[number]]
        assert_close(test.images[same].float(), theirs.images[number].float(), atol=2.0, rtol=0.0)


def test_each_digit_of_the_shifted_test_is_shown_in_every_colour():
    usual = biased_colour.build(seed=0, keep_colours=True)
    task = biased_colour.build(seed=0, keep_colours=True, every_colour=True)
    assert torch.equal(usual.train.images, task.train.images)
    assert torch.equal(usual.upper.images, task.upper.images)
    test = task.tests["shifted"]
    assert len(test.labels) == 10 * len(usual.tests["shifted"].labels)
    cells = torch.bincount(test.labels * 10 + test.groups).view(10, 10)
    assert torch.equal(cells, cells[:, :1].expand(-1, 10))
    assert cells.min() > 30
    corner = nn.functional.normalize(test.images[:, :, :2, :2].float().mean((2, 3)))
    nearest = (corner @ nn.functional.normalize(biased_colour.COLOURS).T).argmax(1)
    assert (nearest == test.groups).float().mean() > 0.99
