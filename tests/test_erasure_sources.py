"""Erasing with the samplers, models and batches that frameworks bring."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from wdpurify import GroupSampler, PurifyRegularizer


def _apart(rows, groups):
    means = [rows[groups == value].mean(0) for value in groups.unique()]
    return (means[0] - means[1]).norm().item()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_rows_of_hugging_face_are_read_and_the_sampler_goes_on_where_it_was(either, num_workers):
    hf_faces = pytest.importorskip("hf_faces")
    hf_datasets = pytest.importorskip("wdpurify.integrations.hf_datasets")

    def make():
        return hf_datasets.group_sampler(either, group="bool", batch_size=8, buffer_size=9, num_workers=num_workers)

    expected = hf_faces.draw(make(), 5)
    sampler = make()
    body, head = nn.Sequential(nn.Flatten(), nn.Linear(48, 6)), nn.Linear(6, 2)
    purify = PurifyRegularizer(body, sampler, feature_dim=6)
    drawn = hf_faces.draw(sampler, 2)
    report = purify.erase(head=head, max_rows=96)
    assert report.directions == 1
    assert report.rows == hf_faces.ROWS
    assert drawn + hf_faces.draw(sampler, 3) == expected
    getattr(sampler, "close", bool)()


@pytest.mark.parametrize("fixed", ["all", True])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_augmented_row_of_hugging_face_is_read_once(either, num_workers, fixed):
    hf_faces = pytest.importorskip("hf_faces")
    hf_datasets = pytest.importorskip("wdpurify.integrations.hf_datasets")
    options = {"transform": _jittered, "batch_size": 8, "buffer_size": 9, "num_workers": num_workers, "fixed": fixed}
    sampler = hf_datasets.group_sampler(either, group="bool", **options)
    purify = PurifyRegularizer(nn.Sequential(nn.Flatten(), nn.Linear(48, 6)), sampler, feature_dim=6)
    before = sampler.state_dict()
    report = purify.erase(head=nn.Linear(6, 2))
    assert report.rows == hf_faces.ROWS
    assert sampler.state_dict() == before
    getattr(sampler, "close", bool)()


@pytest.mark.parametrize("streaming", [False, True])
def test_with_classes_to_balance_over_every_row_is_read(streaming, tmp_path):
    hf_faces = pytest.importorskip("hf_faces")
    hf_datasets = pytest.importorskip("wdpurify.integrations.hf_datasets")
    faces = hf_faces.faces(kind=[row % 8 == 0 for row in range(hf_faces.ROWS)])
    dataset = hf_faces.stream(tmp_path, faces) if streaming else faces
    sampler = hf_datasets.group_sampler(dataset, group="bool", balance="kind", batch_size=8, buffer_size=48)
    purify = PurifyRegularizer(nn.Sequential(nn.Flatten(), nn.Linear(48, 6)), sampler, feature_dim=6)
    assert purify.erase(head=nn.Linear(6, 2)).rows == hf_faces.ROWS


def _jittered(picture):
    return pytest.importorskip("wdpurify.integrations.hf_datasets").as_tensor(picture) + 0.05 * torch.rand(())


def _logits(output):
    return output["logits"] if isinstance(output, dict) else output.logits


class _Library(nn.Module):
    """A model as transformers has them: inputs by keyword, an object with the logits."""

    def __init__(self, returns):
        super().__init__()
        self.returns = returns
        self.encoder = nn.Sequential(nn.Linear(8, 12), nn.Tanh())
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(12, 2)

    def forward(self, values, attention_mask=None, labels=None):
        logits = self.classifier(self.dropout(self.encoder(values)))
        return self.returns(logits=logits)


@pytest.mark.parametrize("returns", [SimpleNamespace, dict])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_of_mappings_that_returns_an_object_is_erased_and_fitted_anew(compiled, returns):
    generator = torch.Generator().manual_seed(0)
    groups, labels = torch.randint(2, (2, 200), generator=generator)
    values = torch.randn((200, 8), generator=generator)
    values[:, 0] += 4.0 * groups
    values[:, 1] += 4.0 * labels
    rows = [{"values": row} for row in values]
    model = _Library(returns)
    wrapped = torch.compile(model, backend="eager") if compiled else model
    purify = PurifyRegularizer.for_model(wrapped, GroupSampler(rows, groups.tolist(), batch_size=20))
    batches = [{"values": values[:100], "labels": labels[:100]}, {"values": values[100:], "labels": labels[100:]}]
    before = _apart(_logits(model.eval()(values)), groups)
    model.train()
    report = purify.erase(batches)
    assert model.training
    logits = _logits(model.eval()(values))
    assert report.refitted == 200
    assert _apart(logits, groups) < 0.01 * before
    assert (logits.argmax(1) == labels).float().mean() > 0.9
