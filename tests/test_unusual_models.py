"""Models that are no plain classifiers: detectors, segmenters, parts of a model, engines that take a gradient per sample."""

import types

import pytest
import torch
from small_loop import small_sampler
from torch import nn
from torchvision import models

from wdpurify import FixedStrength, GroupSampler, OneSided, PurifyRegularizer, TwoSided
from wdpurify.features.tap import FeatureTap


@pytest.mark.parametrize(
    ("name", "layer", "width"),
    [
        ("fasterrcnn_mobilenet_v3_large_320_fpn", "roi_heads.box_predictor.cls_score", 1024),
        ("maskrcnn_resnet50_fpn", "roi_heads.box_predictor.cls_score", 1024),
        ("lraspp_mobilenet_v3_large", "classifier.high_classifier", 128),
        ("fcn_resnet50", "classifier.4", 512),
    ],
)
def test_what_predicts_classes_is_tapped_and_never_a_box_regressor(name, layer, width):
    with torch.device("meta"):
        tap = FeatureTap(models.get_model(name, weights=None, weights_backbone=None))
    assert (tap.layer, tap.feature_dim) == (layer, width)


def test_a_model_of_box_regressors_alone_lists_what_could_be_named():
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "bbox_pred": nn.Linear(4, 8)})
    with pytest.raises(ValueError, match=r"name the layer .*its last ones are conv, bbox_pred"):
        FeatureTap(model)


def test_a_model_without_layers_with_weights_is_sent_to_the_other_form():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 2))

        def forward(self, rows):
            return rows @ self.weight

    with pytest.raises(ValueError, match=r"no layers with weights\. .* `loss\(features\)`"):
        FeatureTap(Bare())


def test_a_segmenter_trains_with_the_maps_that_its_classifier_reads():
    model = models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=3)
    images = torch.rand(12, 3, 32, 32)
    sampler = GroupSampler(images, [0, 1] * 6, batch_size=4)
    purify = PurifyRegularizer.for_model(model, sampler, every=1, strength=FixedStrength(1.0))
    criterion = purify.criterion(nn.CrossEntropyLoss())
    criterion(model(images[:4])["out"], torch.zeros(4, 32, 32, dtype=torch.long)).backward()
    assert purify.metrics().gradient_ratio > 0


def test_a_layer_that_reads_several_maps_is_named():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 4, 3)
            self.head = nn.Module()
            self.head.forward = lambda maps: self.cls_logits(maps[0])
            self.cls_logits = nn.Conv2d(4, 2, 3)

        def forward(self, images):
            return self.head([self.body(images), self.body(images)])

    model = Pyramid()
    purify = PurifyRegularizer.for_model(model, small_sampler(), feature_dim=4)
    criterion = purify.criterion(lambda scores, labels: scores.square().mean())
    with pytest.raises(TypeError, match=r"must be a floating point tensor, got list.*or set `layer`"):
        criterion(model(torch.rand(2, 3, 8, 8)), None)


def test_the_regularizer_of_a_part_is_found_from_the_whole():
    whole = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(192, 6), nn.Linear(6, 4)))
    purify = PurifyRegularizer(whole[1][0], GroupSampler(torch.rand(20, 192), [0, 1] * 10, batch_size=8), feature_dim=6)
    assert PurifyRegularizer.of(whole) is purify
    with pytest.raises(LookupError, match="has no regularizers"):
        PurifyRegularizer.of(whole[0])


def _opacus_like_hook():
    module = types.ModuleType("opacus.grad_sample.grad_sample_module")
    exec("def capture_activations(module, inputs, output):\n    pass", module.__dict__)
    return module.capture_activations


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_engine_that_takes_a_gradient_per_sample_is_refused_by_name(when):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Linear(6, 4))
    if when == "before":
        model[1].register_forward_hook(_opacus_like_hook())
        with pytest.raises(ValueError, match=r"gradient per sample \(Opacus\)"):
            PurifyRegularizer.for_model(model, small_sampler())
        assert len(model[2]._forward_pre_hooks) == 0
        return
    purify = PurifyRegularizer.for_model(model, small_sampler())
    model[1].register_forward_hook(_opacus_like_hook())
    with pytest.raises(ValueError, match=r"gradient per sample \(Opacus\)"):
        purify.critic_step()


class _Described(torch.Tensor):
    """Carries something along in whatever is made of it, and cannot be sliced then, as MONAI's volumes of unlike origin."""

    @classmethod
    def __torch_function__(cls, func, kinds, arguments=(), named=None):
        if func is torch.Tensor.__getitem__:
            raise ValueError("inconsistent metadata")
        return super().__torch_function__(func, kinds, arguments, named or {})


@pytest.mark.parametrize("objective", [TwoSided(), OneSided()])
@pytest.mark.parametrize("flat", [True, False])
def test_rows_that_carry_something_along_are_read_as_plain_tensors(objective, flat):
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(2 - flat), nn.Linear(36 * (6 if flat else 1), 4))
    generator = torch.Generator().manual_seed(0)
    rows = [(row + torch.rand((3, 8, 8), generator=generator)).as_subclass(_Described) for row in range(32)]
    sampler = GroupSampler(rows, [row > 15 for row in range(32)], collate_fn=torch.stack, batch_size=8)
    purify = PurifyRegularizer.for_model(model, sampler, objective=objective, strength=FixedStrength(1.0))
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        scores = model(torch.stack(rows[:8]))
        criterion(scores.mean(1) if scores.ndim > 2 else scores, torch.arange(8) % 4).backward()
        optimizer.step()
    assert type(scores) is _Described
    assert purify.metrics().gradient_ratio > 0
    if flat:
        assert purify.erase([(torch.stack(rows), torch.arange(32) % 4)]).refitted == 32
