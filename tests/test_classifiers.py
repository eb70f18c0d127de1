"""The tap finds by itself what the classifier reads: in timm, torchvision and transformers models, and in users' own."""

import copy
import pickle

import pytest
import torch
from small_loop import small_sampler
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.testing import assert_close

from wdpurify import PurifyRegularizer
from wdpurify.features import FeatureTap
from wdpurify.features.classifier import find_classifier, input_width
from wdpurify.features.pooling import pool_features

TIMM = {
    "beit_base_patch16_224": {"img_size": 32, "depth": 2},
    "test_byobnet": {},
    "cait_xxs24_224": {"img_size": 64, "depth": 2},
    "caformer_s18": {},
    "coat_lite_tiny": {"img_size": 64},
    "convit_tiny": {"img_size": 64, "depth": 3, "local_up_to_layer": 2},
    "convmixer_768_32": {},
    "test_convnext": {},
    "cs3darknet_focus_s": {},
    "densenet121": {"block_config": (2, 2, 2, 2)},
    "dla46_c": {},
    "dpn48b": {},
    "edgenext_xx_small": {},
    "efficientformer_l1": {},
    "test_efficientnet": {},
    "efficientvit_b0": {},
    "efficientvit_m0": {"img_size": 64},
    "fastvit_t8": {},
    "ghostnet_050": {},
    "hgnetv2_b0": {},
    "hrnet_w18_small": {},
    "inception_next_atto": {},
    "lcnet_035": {},
    "levit_128s": {"img_size": 64},
    "test_mambaout": {},
    "mixer_s32_224": {"img_size": 64},
    "mobilenetv3_small_050": {},
    "mobilevit_xxs": {},
    "mobileone_s0": {},
    "mvitv2_tiny": {"img_size": 64},
    "test_nfnet": {},
    "pit_ti_224": {"img_size": 64},
    "poolformer_s12": {},
    "pvt_v2_b0": {},
    "regnetx_002": {},
    "repvit_m0_9": {},
    "resnet10t": {},
    "resnetv2_18": {},
    "rexnet_100": {},
    "selecsls42": {},
    "sequencer2d_s": {"img_size": 64, "layers": (1, 1, 1, 1)},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1)},
    "tiny_vit_5m_224": {},
    "twins_svt_small": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "visformer_tiny": {"img_size": 64},
    "test_vit": {"img_size": 64},
    "vit_base_patch16_siglip_224": {"img_size": 32, "depth": 2},
    "volo_d1_224": {"img_size": 64},
    "xcit_nano_12_p8_224": {"img_size": 64, "depth": 2},
}
#: One of each kind of head: linear, with a norm and a layer before it, of tokens, a 1x1 convolution, two heads in one, a layer
#: after the pooling, of channels last.
FEW_OF_TIMM = (
    "resnet10t",
    "test_convnext",
    "test_vit",
    "dla46_c",
    "levit_128s",
    "mobilenetv3_small_050",
    "swin_tiny_patch4_window7_224",
)

#: What the layer is called and how wide its input is, as read in torchvision's sources.
TORCHVISION = {
    "alexnet": ("classifier.6", 4096, {}),
    "convnext_tiny": ("classifier.2", 768, {}),
    "densenet121": ("classifier", 1024, {}),
    "efficientnet_b0": ("classifier.1", 1280, {}),
    "efficientnet_v2_s": ("classifier.1", 1280, {}),
    "googlenet": ("fc", 1024, {"init_weights": False, "aux_logits": True}),
    "inception_v3": ("fc", 2048, {"init_weights": False, "aux_logits": True}),
    "maxvit_t": ("classifier.5", 512, {}),
    "mnasnet0_5": ("classifier.1", 1280, {}),
    "mobilenet_v2": ("classifier.1", 1280, {}),
    "mobilenet_v3_small": ("classifier.3", 1024, {}),
    "regnet_y_400mf": ("fc", 440, {}),
    "resnet18": ("fc", 512, {}),
    "resnet50": ("fc", 2048, {}),
    "shufflenet_v2_x0_5": ("fc", 1024, {}),
    "squeezenet1_1": ("classifier.1", 512, {}),
    "swin_t": ("head", 768, {}),
    "swin_v2_t": ("head", 768, {}),
    "vgg11_bn": ("classifier.6", 4096, {"init_weights": False}),
    "vit_b_32": ("heads.head", 768, {"image_size": 32}),
}
#: Likewise: linear, a sequence, a 1x1 convolution, auxiliary heads beside it, of tokens.
FEW_OF_TORCHVISION = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "googlenet", "vit_b_32")
SIZES = {"inception_v3": 96, "vit_b_32": 32, "maxvit_t": 224}


def _slow_but_for(few, names):
    """All names as parameters; those that are no representative of a kind of head are left to `make test-slow`."""
    assert set(few) <= set(names)
    return [name if name in few else pytest.param(name, marks=pytest.mark.slow) for name in names]


def _caught(model, *inputs, layer=None, **named):
    """The tap and the features of a forward in which nothing but the tapped layer is in training mode."""
    tap = FeatureTap(model, layer)
    model.eval()
    model.get_submodule(tap.layer).train()
    model(*inputs, **named)
    features = tap.current().newest
    assert features is not None, f"{tap.layer} was not called"
    return tap, features.detach()


@pytest.mark.parametrize("name", _slow_but_for(FEW_OF_TIMM, TIMM))
def test_timm_features_are_what_timm_calls_pre_logits(name):
    model = pytest.importorskip("timm").create_model(name, num_classes=5, **TIMM[name]).eval()
    size = 224 if name == "efficientformer_l1" else TIMM[name].get("img_size", 64)
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
    tap, features = _caught(model, images)
    assert expected.std() > 0
    if expected.ndim > 2:
        expected = pool_features(expected, tap.feature_dim)
    assert_close(pool_features(features, tap.feature_dim), expected, rtol=1e-4, atol=1e-5)
    assert tap.feature_dim == expected.shape[1]
    model.train()
    model(images)
    assert pool_features(tap.current().newest, tap.feature_dim).shape == expected.shape


@pytest.mark.parametrize(
    ("name", "size", "read_by_one_head"),
    [
        ("deit_tiny_distilled_patch16_224", 224, lambda features: features[:, 0]),  # pre_logits is the mean of both tokens
        ("crossvit_tiny_240", 240, lambda features: features[-1][:, 0]),  # pre_logits is both branches side by side
        ("efficientvim_m1", 64, lambda features: features[-1].mean(-1)),  # likewise four stages
        ("efficientvim_m1_dist", 64, lambda features: features[-1].mean(-1)),
    ],
)
def test_of_several_heads_one_is_tapped(name, size, read_by_one_head):
    model = pytest.importorskip("timm").create_model(name, num_classes=5).eval()
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        expected = read_by_one_head(model.forward_features(images))
    tap, features = _caught(model, images)
    assert_close(features, expected)
    assert tap.feature_dim == expected.shape[1]


@pytest.mark.parametrize(
    "name", ["test_byobnet", "test_convnext", "test_vit", "resnetv2_18", "levit_128s", "mobilenetv3_small_050"]
)
def test_without_a_classifier_the_features_are_the_output(name):
    sizes = {"img_size": 64} if name in ("test_vit", "levit_128s") else {}
    model = pytest.importorskip("timm").create_model(name, num_classes=0, **sizes).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
    tap, features = _caught(model, images)
    assert_close(pool_features(features, tap.feature_dim or expected.shape[1]), expected)


@pytest.mark.parametrize("name", _slow_but_for(FEW_OF_TORCHVISION, TORCHVISION))
def test_torchvision_features_are_the_output_of_the_model_without_its_classifier(name):
    models = pytest.importorskip("torchvision.models")
    layer, width, options = TORCHVISION[name]
    model = models.get_model(name, weights=None, num_classes=5, **options).eval()
    size = SIZES.get(name, 64)
    images = torch.rand(2, 3, size, size)
    tap, features = _caught(model, images)
    tap.remove()
    assert tap.layer == layer
    assert tap.feature_dim == width
    parent, _, child = layer.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    with torch.no_grad():
        assert_close(pool_features(features, width), model.eval()(images).flatten(1), rtol=1e-4, atol=1e-5)


_TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20, "num_labels": 5}
_TINY_IMAGE = {**_TINY, "image_size": 32, "patch_size": 16}
_TINY_TEXT = {**_TINY, "vocab_size": 30, "max_position_embeddings": 40, "pad_token_id": 0}
TRANSFORMERS = {
    "ViT": ("ViTForImageClassification", _TINY_IMAGE, "classifier", 16),
    "DeiT with teacher": ("DeiTForImageClassificationWithTeacher", _TINY_IMAGE, "cls_classifier", 16),
    "ConvNeXt": (
        "ConvNextForImageClassification",
        {"hidden_sizes": [8, 8, 8, 12], "depths": [1] * 4, "num_labels": 5},
        "classifier",
        12,
    ),
    "ResNet": (
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 12], "depths": [1] * 4, "num_labels": 5},
        "classifier.1",
        12,
    ),
    "BERT": ("BertForSequenceClassification", _TINY_TEXT, "classifier", 16),
    "RoBERTa": ("RobertaForSequenceClassification", _TINY_TEXT, "classifier.out_proj", 16),
    "DistilBERT": (
        "DistilBertForSequenceClassification",
        {"dim": 16, "hidden_dim": 20, "n_layers": 1, "n_heads": 2, "vocab_size": 30, "num_labels": 5},
        "classifier",
        16,
    ),
    "Llama": ("LlamaForSequenceClassification", _TINY_TEXT, "score", 16),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_features_are_the_logits_of_the_model_without_its_classifier(name):
    transformers = pytest.importorskip("transformers")
    kind, options, layer, width = TRANSFORMERS[name]
    made = getattr(transformers, kind)
    model = made(made.config_class(**options)).eval()
    text = "Sequence" in kind
    inputs = {"input_ids": torch.randint(1, 30, (2, 6))} if text else {"pixel_values": torch.rand(2, 3, 32, 32)}
    tap, features = _caught(model, **inputs)
    tap.remove()
    assert tap.layer == layer
    assert tap.feature_dim == width
    parent, _, child = layer.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    if "Teacher" in kind:
        model.distillation_classifier = nn.Identity()
    with torch.no_grad():
        output = model.eval()(**inputs)
    expected = output.cls_logits if "Teacher" in kind else output.logits
    assert_close(features[:, -1] if name == "Llama" else features, expected)  # Llama scores all tokens and picks the last


class _User(nn.Module):
    """Children in the given order; nothing of it is run."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


class _Declaring(nn.Module):
    """What timm's models are to the tap: a hidden layer behind the classifier in registration order, and the method."""

    def __init__(self, classifier):
        super().__init__()
        self.last_linear, self.hidden = classifier, nn.Linear(6, 6)

    def get_classifier(self):
        return self.last_linear


class _NotADeclaration(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, 4)

    def get_classifier(self, name):
        raise AssertionError(name)


class _Cosine(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 6))

    def forward(self, features):
        return nn.functional.normalize(features) @ nn.functional.normalize(self.weight).T


class _Channels(nn.Module):
    """A linear layer with the attributes of torch_geometric's."""

    def __init__(self):
        super().__init__()
        self.in_channels, self.out_channels = 6, 4
        self.weight = nn.Parameter(torch.rand(4, 6))


class _Lora(nn.Module):
    """Presents itself as a linear layer, as adapter libraries do."""

    def __init__(self):
        super().__init__()
        self.base_layer, self.down, self.up = nn.Linear(6, 4), nn.Linear(6, 1), nn.Linear(1, 4)
        self.in_features, self.out_features = 6, 4

    @property
    def weight(self):
        return self.base_layer.weight


def _mlp():
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6))


def _tied():
    model = _User(embedding=nn.Linear(6, 6), out=nn.Linear(6, 6))
    model.out.weight = model.embedding.weight
    model.again = model.out
    return model


USERS = {
    "one linear layer": (lambda: nn.Linear(6, 4), ""),
    "last of a sequence": (lambda: nn.Sequential(_mlp(), nn.ReLU(), nn.Linear(6, 4)), "2"),
    "a hidden layer called fc": (lambda: _User(fc=nn.Linear(3, 6), out=nn.Linear(6, 4)), "out"),
    "head behind a backbone": (lambda: _User(backbone=_Declaring(nn.Linear(6, 6)), linear=nn.Linear(6, 4)), "linear"),
    "head registered first": (lambda: _User(head=nn.Linear(6, 4), net=_mlp()), "head"),
    "backbone registered last": (lambda: _User(linear=nn.Linear(6, 4), backbone=_mlp()), "linear"),
    "a head that is a network": (lambda: _User(net=_mlp(), head=nn.Sequential(_mlp(), nn.Linear(6, 4)), z=_mlp()), "head.1"),
    "normalisation before a model": (lambda: nn.Sequential(nn.BatchNorm2d(3), _Declaring(nn.Linear(6, 4))), "1.last_linear"),
    "declared": (lambda: _Declaring(nn.Linear(6, 4)), "last_linear"),
    "declared convolution": (lambda: _Declaring(nn.Conv2d(6, 4, 1)), "last_linear"),
    "declared pair": (lambda: _Declaring(nn.ModuleList([nn.Linear(3, 4), nn.Linear(6, 4)])), "last_linear.1"),
    "the method means something else": (_NotADeclaration, "out"),
    "auxiliary head": (lambda: _User(net=_mlp(), out=nn.Linear(6, 4), aux_out=nn.Linear(6, 4)), "out"),
    "distillation head": (lambda: _User(net=_mlp(), out=nn.Linear(6, 4), distillation=nn.Linear(6, 4)), "out"),
    "domain head": (lambda: _User(net=_mlp(), out=nn.Linear(6, 4), domain_classifier=nn.Linear(6, 2)), "out"),
    "own classifier": (lambda: _User(net=_mlp(), head=_Cosine()), "head"),
    "linear by channels": (lambda: _User(net=_mlp(), mlp=nn.ModuleList([_Channels()])), "mlp.0"),
    "adapter": (lambda: _User(net=_mlp(), out=_Lora()), "out"),
    "adapter in parts": (lambda: _User(net=_mlp(), linear=nn.Linear(6, 4), lora_A=nn.Linear(6, 1)), "linear"),
    "tied weights": (_tied, "out"),
    "weight norm": (lambda: nn.Sequential(_mlp(), weight_norm(nn.Linear(6, 4))), "1"),
    "attention": (lambda: _User(out=nn.Linear(6, 4), attention=nn.MultiheadAttention(6, 2)), "out"),
    "convolution at the end": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), _mlp(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "2",
    ),
    "convolution that is registered last": (lambda: _User(stem=nn.Conv2d(3, 6, 3), out=nn.Conv2d(6, 4, 1)), "out"),
    "convolution in its own block": (lambda: _User(inc=nn.Conv2d(3, 6, 3), outc=_User(conv=nn.Conv2d(6, 4, 1))), "outc.conv"),
    "classifier taken off": (lambda: _User(encoder=_mlp(), heads=nn.Identity()), "heads"),
    "fc taken off": (lambda: _User(stem=nn.Conv2d(3, 6, 1), fc=nn.Identity()), "fc"),
    "classifier taken off a backbone": (lambda: _User(top=nn.Linear(6, 4), net=_Declaring(nn.Identity())), "top"),
}


@pytest.mark.parametrize("name", USERS)
def test_users_own_models_are_searched_for_the_classifier(name):
    make, layer = USERS[name]
    model = make()
    assert find_classifier(model) == layer
    found = model.get_submodule(layer)
    assert input_width(found) == (None if isinstance(found, nn.Identity | _Cosine) else 6)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 6, 1)),  # reads the images
        _User(stem=nn.Conv2d(3, 6, 3), block=_User(shortcut=nn.Sequential(nn.Conv2d(6, 6, 1)))),
        nn.MultiheadAttention(6, 2),
    ],
    ids=["no 1x1 convolution", "only a 1x1 convolution", "a shortcut", "attention alone"],
)
def test_models_without_a_classifier_are_named(model):
    with pytest.raises(ValueError, match=r"`model` needs a classifier.*has no nn\.Linear.*layer="):
        FeatureTap(model)


@pytest.mark.parametrize(
    ("layer", "width"),
    [
        (nn.Linear(5, 2), 5),
        (nn.LazyLinear(2), None),
        (nn.Conv2d(5, 2, 3), 5),
        (nn.ConvTranspose2d(5, 2, 3), 5),
        (nn.BatchNorm2d(5, affine=False), 5),
        (nn.GroupNorm(1, 5), 5),
        (nn.LayerNorm(5), 5),
        (nn.LayerNorm((5, 4, 3)), None),
        (nn.RMSNorm(5), 5),
        (nn.MultiheadAttention(6, 2), 6),
        (nn.GRU(5, 2), 5),
        (nn.PReLU(), None),
        (nn.Sequential(nn.PReLU(), nn.Dropout(), nn.Linear(5, 2)), 5),
        (nn.Sequential(nn.Sequential(nn.BatchNorm2d(5)), nn.Conv2d(7, 2, 1)), 5),
        (nn.Sequential(nn.Flatten(), nn.Linear(20, 2)), None),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)), 5),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 2)), None),
        (nn.Sequential(nn.ReLU()), None),
    ],
    ids=lambda value: None if isinstance(value, int) else type(value).__name__,
)
def test_width_is_what_the_first_layer_with_a_width_reads(layer, width):
    assert input_width(layer) == width


def _network():
    body = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.Sequential(nn.BatchNorm2d(5), nn.Conv2d(5, 5, 1), nn.ReLU()))
    return nn.Sequential(*body, nn.ReLU(), nn.Flatten(), nn.Linear(45, 6), nn.ReLU(), nn.Linear(6, 4))


@pytest.mark.parametrize(("layer", "width"), [(None, 6), ("0", 3), ("1", 5), ("1.1", 5), ("4", 45), ("5", 6)])
def test_a_critic_gets_the_width_of_any_layer(layer, width):
    purify = PurifyRegularizer.for_model(_network(), small_sampler(), layer=layer)
    purify.critic_step()
    assert next(purify.critic.parameters()).shape[1] == width


def test_a_lazy_classifier_is_refused_until_the_task_has_initialised_it():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.LazyLinear(4))
    with pytest.raises(ValueError, match=r"lazy layers without weights \(2.weight, 2.bias\).*Call the model once"):
        PurifyRegularizer.for_model(model, small_sampler())
    model(torch.rand(2, 3, 8, 8))
    assert next(PurifyRegularizer.for_model(model, small_sampler()).critic.parameters()).shape[1] == 6


def test_maps_of_unknown_width_are_named():
    with pytest.raises(ValueError, match=r"`feature_dim` is needed for features of shape \(2, 5, 3, 3\)"):
        PurifyRegularizer.for_model(_network(), small_sampler(), layer="2")


class _ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(192, 6)), nn.Linear(6, 4)

    def forward(self, images):
        return self.head(input=self.body(images))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_classifier_called_by_keyword_is_tapped(compiled):
    torch._dynamo.reset()
    model = _ByKeyword()
    clone = copy.deepcopy(model)
    purify = PurifyRegularizer.for_model(model, small_sampler(), every=1)
    images = torch.rand(2, 3, 8, 8)
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    assert_close(run(images), clone(images))
    assert_close(purify.tap.current().newest, clone.body(images))
    purify.critic_step()
    purify.tap.release()
    copied = copy.deepcopy(model)
    assert_close(copied(images), clone(images))
    assert purify.tap.current() is None  # the copy carries no tap


class _PastHooks(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(192, 4)

    def forward(self, images):
        return nn.functional.linear(images.flatten(1), self.head.weight)


def test_a_layer_that_is_never_called_is_named():
    model = _PastHooks()
    purify = PurifyRegularizer.for_model(model, small_sampler())
    with pytest.raises(ValueError, match=r"`layer` must be a layer that forward passes of the model call, got 'head'.*layer="):
        purify.critic_step()


class _Pair(nn.Module):
    def forward(self, pair):
        return pair[0] + pair[1]


def test_a_layer_that_reads_no_tensor_is_named():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.out = _Pair(), nn.Linear(192, 4)

        def forward(self, images):
            return self.out(self.pair((images.flatten(1), images.flatten(1))))

    model = Model()
    purify = PurifyRegularizer(FeatureTap(model, "pair"), small_sampler(), feature_dim=192)
    model(torch.rand(2, 3, 8, 8))
    with pytest.raises(TypeError, match="`features` must be a floating point tensor, got tuple"):
        purify.critic_step()


def test_copies_of_a_tapped_model_can_be_compiled_and_stored():
    model = _ByKeyword()
    FeatureTap(model)
    images = torch.rand(2, 3, 8, 8)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(copy.deepcopy(model))):
        torch._dynamo.reset()
        assert_close(torch.compile(copied, backend="eager", fullgraph=True)(images), model(images))
