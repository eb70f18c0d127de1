"""Erasing after training: what it does to every kind of classifier, and what it refuses."""

import copy
import re
from pathlib import Path

import pytest
import torch
from labelled_rows import shared_covariance
from small_loop import equal_states, small_network, small_sampler, state_of, train
from torch import nn
from torch.testing import assert_close

from wdpurify import GroupSampler, PurifyRegularizer, balanced_weights
from wdpurify.erasure import fit_eraser
from wdpurify.erasure.affine import AffineLayer
from wdpurify.exceptions import ForeignHeadWarning

#: What is tested does not need a classifier that predicts.
UNTRAINED = pytest.mark.filterwarnings("ignore::wdpurify.exceptions.ForeignHeadWarning")


def _biased(rows=600, seed=1):
    """Task rows whose nuisance (column 1, the stronger) has the class's number in 95 %, and auxiliary rows without a class."""
    generator = torch.Generator().manual_seed(seed)
    labels, groups, free = torch.randint(2, (3, rows), generator=generator)
    nuisance = torch.where(torch.rand(rows, generator=generator) < 0.95, labels, 1 - labels)

    def images(of_class, of_nuisance):
        drawn = torch.randn((rows, 8), generator=generator)
        drawn[:, 0] += 1.5 * (2 * of_class - 1)
        drawn[:, 1] += 3.0 * (2 * of_nuisance - 1)
        return drawn

    return (images(labels, nuisance), labels), (images(free, groups), groups, free)


class _Classifier(nn.Module):
    def __init__(self, head, width=16):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, width), nn.Tanh())
        self.head = head

    def forward(self, images):
        return self.head(self.body(images))


def _fitted(model, images, labels, steps=60):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(images).flatten(1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def _accuracy(model, images, labels):
    with torch.no_grad():
        return (model(images).flatten(1).argmax(1) == labels).float().mean().item()


def test_the_page_runs_as_it_stands(capsys):
    page = (Path(__file__).parent.parent / "docs" / "after-training.md").read_text()
    exec(re.search(r"```python\n(.*?)```", page, flags=re.DOTALL)[1], {})
    assert "A linear probe reads the label of" in capsys.readouterr().out


class _Channels(nn.Module):
    """A linear layer with the attributes of torch_geometric's, which is no ``nn.Linear``."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels) / in_channels**0.5)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, features):
        return nn.functional.linear(features, self.weight, self.bias)


HEADS = {
    "linear": lambda: nn.Linear(16, 2),
    "linear without bias": lambda: nn.Linear(16, 2, bias=False),
    "linear between channels": lambda: _Channels(16, 2),
    "a subclass": lambda: nn.modules.linear.NonDynamicallyQuantizableLinear(16, 2),
    "1x1 convolution": lambda: nn.Sequential(nn.Unflatten(1, (16, 1, 1)), nn.Conv2d(16, 2, 1)),
    "1x1 convolution without bias": lambda: nn.Sequential(nn.Unflatten(1, (16, 1, 1)), nn.Conv2d(16, 2, 1, bias=False)),
}


def _layer_name(model):
    return "head.1" if isinstance(model.head, nn.Sequential) else "head"


@pytest.mark.parametrize("kind", HEADS)
def test_folding_gives_the_scores_of_the_erased_features(kind):
    (images, labels), (auxiliary, groups, _) = _biased()
    model = _fitted(_Classifier(HEADS[kind]()), images, labels)
    keys = list(model.state_dict())
    purify = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups), layer=_layer_name(model))
    eraser = purify.eraser(bias="without bias" not in kind)
    expected = model.head(eraser(model.body(images)))
    report = purify.erase()
    assert list(model.state_dict()) == keys
    assert_close(model(images), expected, rtol=1e-3, atol=1e-3)
    assert shared_covariance(model(auxiliary).flatten(1).double(), groups).norm() < 1e-4
    assert report.directions == 1
    assert report.before > 0.95
    assert report.after < 0.7


def test_erasing_and_fitting_anew_mends_a_biased_classifier():
    (images, labels), (auxiliary, groups, free) = _biased()
    model = _fitted(_Classifier(nn.Linear(16, 2)), images, labels)
    before = _accuracy(model, auxiliary, free)
    purify = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups))
    report = purify.erase([(images[:300], labels[:300]), (images[300:], labels[300:])])
    assert report.refitted == 600
    assert before < 0.85
    assert _accuracy(model, auxiliary, free) > 0.88
    assert shared_covariance(model(auxiliary).double(), groups).norm() < 1e-4
    assert "reads the label of" in str(report)
    assert "1 direction removed" in str(report)


def test_rows_that_are_not_finite_are_left_out_wherever_they_stand():
    (images, labels), (auxiliary, groups, _) = _biased()
    model = _fitted(_Classifier(nn.Linear(16, 2)), images, labels)
    images[3] = torch.nan
    report = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups)).erase([(images, labels)])
    assert report.refitted == 599


def test_inference_mode_changes_nothing():
    (images, labels), (auxiliary, groups, _) = _biased()
    found = []
    for inference in (False, True):
        torch.manual_seed(0)
        model = _fitted(_Classifier(nn.Linear(16, 2)), images, labels, steps=10)
        purify = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups))
        with torch.inference_mode(inference):
            purify.erase([(images.clone(), labels.clone())])
            eraser = purify.eraser()
        found.append((model.head.weight.detach(), eraser(model.body(images)).detach()))
    assert_close(found[0], found[1], rtol=0, atol=0)


def test_groups_in_another_order_than_the_rows_are_suspected_in_the_report():
    (images, labels), (auxiliary, groups, _) = _biased()
    model = _fitted(_Classifier(nn.Linear(16, 2)), images, labels)
    shuffled = groups[torch.randperm(len(groups))]
    report = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, shuffled)).erase()
    assert "Check that the groups are in the order of the rows if nothing was purified" in str(report)
    few = report._replace(before=0.9, after=0.7)
    assert "Use more auxiliary rows" in str(few)
    assert str(report._replace(before=0.9, after=0.51)).endswith("different auxiliary rows).")


def test_a_head_that_does_not_read_these_features_is_named():
    (images, labels), (auxiliary, groups, _) = _biased()
    model = _fitted(_Classifier(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))), images, labels)
    with torch.no_grad():
        model.head[2].bias[0] += 50.0  # what it says of other features is one class
    purify = PurifyRegularizer(model.body, GroupSampler(auxiliary, groups), feature_dim=16)
    with pytest.warns(ForeignHeadWarning, match="Give the layer that reads them, after training"):
        purify.erase([(images, labels)], head=model.head[2])
    with pytest.raises(ValueError, match="has 16 outputs and `batches` has rows of 2 classes"):
        purify.erase([(images, labels)], head=model.head[0])


@pytest.mark.parametrize("form", ["mappings", "a classifier with one output", "a function", "a function to lists", "floats"])
def test_rows_come_as_loaders_give_them(form):
    (images, labels), (auxiliary, groups, free) = _biased()
    one = form == "a classifier with one output"
    model = _Classifier(nn.Linear(16, 2))
    _fitted(model, images, labels)
    if one:
        with torch.no_grad():
            slope, offset = (each[1:] - each[:1] for each in (model.head.weight, model.head.bias))
            model.head = nn.Linear(16, 1)
            model.head.weight.copy_(slope)
            model.head.bias.copy_(offset)
    batches = {
        "mappings": [{"images": images, "labels": labels}],
        "a classifier with one output": [(images, labels[:, None].float())],
        "a function": [{"x": images, "y": labels}],
        "a function to lists": [{"x": images, "y": labels.tolist()}],
        "floats": [(images, labels.double())],
    }[form]
    unpack = (lambda batch: (batch["x"], batch["y"])) if form.startswith("a function") else None
    PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups)).erase(batches, unpack=unpack)
    found = (model(auxiliary)[:, 0] > 0).long() if one else model(auxiliary).argmax(1)
    assert (found == free).float().mean() > 0.88


@UNTRAINED
def test_the_explicit_form_takes_the_head_or_gives_the_object():
    network = small_network(norm=False)
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6)
    with pytest.raises(ValueError, match=r"erase\(batches, head=model.head\)"):
        purify.erase()
    images = torch.rand(4, 3, 8, 8)
    eraser = purify.eraser()
    expected = network.head(eraser(network.features(images)))
    report = purify.erase([(images, torch.tensor([0, 1, 2, 3]))] * 2, head=copy.deepcopy(network.head))
    assert report.refitted == 8
    purify.erase(head=network.head)
    assert_close(network.head(network.features(images)), expected, rtol=1e-3, atol=1e-4)


@UNTRAINED
def test_nothing_but_the_classifier_changes():
    network = small_network(dropout=0.5)
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6)
    train(network, purify, 3)
    network.features[1].eval()
    modes = [part.training for part in network.modules()]
    before, state, random = state_of(network.features), purify.state_dict(), torch.get_rng_state()
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    purify.erase([(images, torch.tensor([0, 1, 2, 3]))], head=network.head)
    assert [part.training for part in network.modules()] == modes
    assert equal_states(state_of(network.features), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert purify.state_dict()["ranks"][0]["sampler.drawn"] == state["ranks"][0]["sampler.drawn"] > 0


def test_what_it_does_not_depend_on_where_the_sampler_stands():
    reports = []
    for steps in (0, 5):
        network = small_network(norm=False)
        torch.manual_seed(0)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
        sampler = small_sampler()
        purify = PurifyRegularizer(network.features, sampler, feature_dim=6)
        for _ in range(steps):
            sampler.next_batch()
        reports.append(purify.erase(head=network.head))
    assert reports[0] == reports[1]
    assert reports[0].rows == 60


def test_rows_drawn_evenly_over_cells_are_weighed_so():
    (images, labels), _ = _biased(seed=3)
    nuisance = (images[:, 1] > 0).long()
    sampler = GroupSampler(images, nuisance, balance=labels)
    model = _fitted(_Classifier(nn.Linear(16, 2)), images, labels)
    eraser = PurifyRegularizer.for_model(model, sampler).eraser()
    features = model.body(images).detach().double()
    cells = 2 * nuisance + labels
    weights = 1.0 / cells.bincount().double()[cells]
    assert (
        shared_covariance(eraser(features), nuisance, weights).norm()
        < 0.2 * shared_covariance(features, nuisance, weights).norm()
    )
    of_class = shared_covariance(eraser(features), labels, weights).norm() / shared_covariance(features, labels, weights).norm()
    assert of_class > 0.7


@pytest.mark.parametrize("tied", ["weight", "bias"])
def test_a_tied_parameter_is_copied_and_the_other_layer_stays(tied):
    (images, labels), (auxiliary, groups, _) = _biased()
    model = _Classifier(nn.Linear(16, 2))
    model.other = nn.Linear(16, 2)
    setattr(model.other, tied, getattr(model.head, tied))
    _fitted(model, images, labels)
    before = getattr(model.other, tied).clone()
    PurifyRegularizer.for_model(model, GroupSampler(auxiliary + 1.0, groups), layer="head").erase()
    assert torch.equal(getattr(model.other, tied), before)
    assert not torch.equal(getattr(model.head, tied), before)


class _Adapter(nn.Module):
    """LoRA as adapter libraries have it: a frozen layer inside, and what is learned beside it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, features):
        return self.base_layer(features) + self.up(self.down(features))


def test_an_adapter_around_the_classifier_is_folded_into_its_base_layer():
    (images, labels), (auxiliary, groups, _) = _biased()
    model = _fitted(_Classifier(_Adapter(nn.Linear(16, 2))), images, labels)
    purify = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups), layer="head", feature_dim=16)
    expected = model.head(purify.eraser()(model.body(images)))
    purify.erase()
    assert_close(model(images), expected, rtol=1e-3, atol=1e-3)


class _Cosine(nn.Linear):
    def forward(self, features):
        return nn.functional.linear(nn.functional.normalize(features), self.weight)


REFUSED = {
    "a deep head": (lambda: nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2)), "head", "no plain weight"),
    "a 3x3 convolution": (
        lambda: nn.Sequential(nn.Unflatten(1, (16, 1, 1)), nn.Conv2d(16, 2, 3, padding=1)),
        "head.1",
        "larger than 1",
    ),
    "a 1x1 convolution with padding": (
        lambda: nn.Sequential(nn.Unflatten(1, (16, 1, 1)), nn.Conv2d(16, 2, 1, padding=1)),
        "head.1",
        "or with padding",
    ),
    "a parametrised weight": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 2)), "head", "no plain weight"),
    "a head that is not affine": (lambda: _Cosine(16, 2), "head", "does not compute the affine map"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_heads_are_refused_by_name_and_nothing_changes(kind):
    make, layer, message = REFUSED[kind]
    (images, labels), (auxiliary, groups, _) = _biased()
    model = _fitted(_Classifier(make()), images, labels, steps=3)
    before = state_of(model)
    purify = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups), layer=layer, feature_dim=16)
    with pytest.raises(ValueError, match=rf"{message}.*purify\.eraser\(\)"):
        purify.erase()
    assert equal_states(state_of(model), before)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_large_bias_costs_no_digit_of_the_weights(dtype, adapted):
    layer = nn.Linear(16, 2)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([100.0, -100.0]))
    layer = (_Adapter(layer) if adapted else layer).to(dtype)
    expected = layer.base_layer.weight + layer.up.weight @ layer.down.weight if adapted else layer.weight
    found = AffineLayer(layer)
    assert_close(found.weight, expected.double(), rtol=0, atol=torch.finfo(dtype).eps)
    assert_close(found.bias, torch.tensor([100.0, -100.0], dtype=torch.float64), rtol=0, atol=0)


def test_a_layer_that_forgets_what_is_written_is_given_its_weights_back():
    class Stubborn(nn.Linear):
        def forward(self, features):
            return nn.functional.linear(features, first, self.bias)

    layer, other = Stubborn(4, 2), nn.Linear(4, 2)
    other.weight, other.bias = layer.weight, layer.bias
    first = layer.weight.detach().clone()
    affine = AffineLayer(layer, nn.ModuleList([layer, other]))
    with pytest.raises(ValueError, match="does not compute"):
        affine.write(affine.weight + 1.0, affine.bias)
    assert torch.equal(layer.weight, first)
    assert layer.weight is other.weight
    assert layer.bias is other.bias
    assert_close(affine.weight, first.double(), rtol=0, atol=1e-6)


BAD = {
    "no pairs": ([torch.rand(4, 8)], "unpack=lambda batch"),
    "no batch": ([], "at least one batch"),
    "labels that are no classes": ([(torch.rand(4, 8), torch.rand(4))], "class numbers from 0 to 1"),
    "classes out of range": ([(torch.rand(4, 8), torch.tensor([0, 1, 2, 1]))], "class numbers from 0 to 1"),
    "labels that are text": ([(torch.rand(4, 8), ["sad", "glad"] * 2)], "got text.*Number the classes.*unpack=lambda batch"),
    "labels that are no numbers": ([(torch.rand(4, 8), [None] * 4)], "got list.*Number the classes"),
    "no finite row": ([(torch.full((4, 8), torch.nan), torch.tensor([0, 1, 0, 1]))], "finite features, got none in 4 rows"),
    "labels of other rows": ([(torch.rand(4, 8), torch.tensor([0, 1]))], "2 labels for 4 rows"),
}


@pytest.mark.parametrize("kind", BAD)
def test_batches_that_cannot_be_fitted_on_are_refused_and_nothing_changes(kind):
    batches, message = BAD[kind]
    _, (auxiliary, groups, _) = _biased()
    model = _Classifier(nn.Linear(16, 2))
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups)).erase(batches)
    assert equal_states(state_of(model), before)


def test_a_number_of_rows_below_one_is_refused():
    network = small_network(norm=False)
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6)
    with pytest.raises(ValueError, match="`max_rows` must be"):
        purify.eraser(max_rows=0)
    with pytest.raises(ValueError, match="must read the 6 purified features"):
        purify.erase(head=nn.Linear(5, 2))


def test_a_layer_that_is_not_the_last_is_folded_and_not_fitted_anew():
    _, (auxiliary, groups, free) = _biased()
    model = _Classifier(nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2)))
    purify = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups), layer="head.0")
    with pytest.raises(ValueError, match=r"not this layer.s output"):
        purify.erase([(auxiliary, free)])
    expected = model.head(purify.eraser()(model.body(auxiliary)))
    purify.erase()
    assert_close(model(auxiliary), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_classifiers_of_other_precision_are_erased(dtype):
    (images, labels), (auxiliary, groups, _) = _biased()
    model = _fitted(_Classifier(nn.Linear(16, 2)), images, labels).to(dtype)
    purify = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups))
    before = shared_covariance(model(auxiliary.to(dtype)).double(), groups).norm()
    report = purify.erase([(images, labels)])
    assert report.before > 0.95
    assert shared_covariance(model(auxiliary.to(dtype)).double(), groups).norm() < 0.05 * before


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_one_fixed_value_of_two_is_erased_and_reported_as_both_are(share):
    (images, labels), (auxiliary, groups, _) = _biased()
    groups = (torch.rand(600) < share).long()
    auxiliary[:, 1] = torch.randn(600) + 3.0 * groups
    model = _fitted(_Classifier(nn.Linear(16, 2)), images, labels)
    before = state_of(model)
    found = []
    for fixed in ("all", 1):
        model.load_state_dict(before)
        sampler = GroupSampler(auxiliary, groups, fixed=fixed)
        report = PurifyRegularizer.for_model(model, sampler).erase()
        found.append((model.head.weight.detach().clone(), list(report)))
    assert_close(found[0], found[1], rtol=0, atol=1e-5)


class _Watched(torch.utils.data.Dataset):
    """Rows that note their numbers."""

    def __init__(self, rows):
        self.rows, self.read = rows, []

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        self.read.append(int(row))
        return self.rows[row]


def test_a_rare_cell_is_weighed_and_not_read_again():
    (images, labels), _ = _biased()
    nuisance = (images[:, 1] > 0).long()
    model, rows = _fitted(_Classifier(nn.Linear(16, 2)), images, labels), _Watched(images)
    found = PurifyRegularizer.for_model(model, GroupSampler(rows, nuisance, balance=labels)).eraser()
    assert sorted(set(rows.read)) == list(range(600))
    assert len(rows.read) < 640  # whole batches
    features = model.body(images).detach()
    expected = fit_eraser(features, nuisance, balanced_weights(nuisance, labels))
    assert_close(found(features), expected(features), rtol=0, atol=1e-4)


@pytest.mark.parametrize("by", ["fixed", "balance"])
def test_of_more_rows_than_are_read_the_rare_ones_come_first_and_weigh_as_much_as_all(by):
    torch.manual_seed(0)
    images, rare = torch.randn(2000, 8), (torch.arange(2000) % 50 == 0).long()
    images[:, 0] += 3.0 * rare
    classes = torch.arange(2000) % 2
    rows = _Watched(images)
    options = {"fixed": {"fixed": 1}, "balance": {"balance": classes[torch.randperm(2000)]}}[by]
    model = _Classifier(nn.Linear(16, 2))
    found = PurifyRegularizer.for_model(model, GroupSampler(rows, rare, batch_size=32, **options)).eraser(max_rows=400)
    assert set(rare.nonzero()[:, 0].tolist()) <= set(rows.read)
    assert len(rows.read) == len(set(rows.read)) == 416
    features = model.body(images).detach()
    weights = torch.ones(2000) if by == "fixed" else balanced_weights(rare, options["balance"])
    expected = fit_eraser(features, rare, weights)
    kept, removed = (torch.linalg.svd(each.removed, full_matrices=False)[0][:, 0] for each in (found, expected))
    assert (kept @ removed).abs() > 0.95
    assert_close(found.mean, expected.mean, rtol=0, atol=0.15)


def test_a_label_whose_rare_value_the_split_puts_on_one_side_is_left_out_of_the_report():
    (images, labels), (auxiliary, groups, _) = _biased(200)
    model = _fitted(_Classifier(nn.Linear(16, 2)), images, labels)
    alone = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups), strength=0.0)
    expected = alone.erase()
    alone.remove()
    for row in range(20):
        camera = ["b" if place == row else "a" for place in range(200)]
        model = _fitted(_Classifier(nn.Linear(16, 2)), images, labels, steps=5)
        report = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, {"hair": groups, "camera": camera})).erase()
        assert report.chance == 0.5
        assert abs(report.before - expected.before) < 0.1
        assert report.after < 0.8


def test_chance_is_that_of_the_values_that_are_judged():
    (images, labels), (auxiliary, groups, _) = _biased(200)
    groups[0] = 2  # a single row
    model = _fitted(_Classifier(nn.Linear(16, 2)), images, labels)
    assert PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups)).erase().chance == 0.5


def test_a_report_of_too_few_rows_says_so_and_no_rows_name_max_rows():
    def erased(rows):
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        return PurifyRegularizer.for_model(model, GroupSampler(torch.randn(40, 4), ["a", "b"] * 20)).erase(max_rows=rows)

    report = erased(6)
    assert report.before != report.before
    assert str(report).startswith("The rows are too few to tell what a linear probe reads of the label (chance 50.0%;")
    with pytest.raises(ValueError, match=r"got one\. .* or raise `max_rows`"):
        erased(1)
