"""The feature tap and the wrapped criterion: two lines for loops that never see features."""

import copy
import io
import pickle
import warnings
from collections import OrderedDict

import pytest
import torch
from small_loop import equal_states, small_sampler
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from versions import names_kept_by_export

import wdpurify
from wdpurify import BalancedStrength, FixedStrength, GroupSampler, PurifyRegularizer
from wdpurify.features import FeatureTap


def _model(dropout=0.0):
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 6), nn.ReLU()
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(6, 4))


def _train(model, criterion, steps=7):
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator)
        loss = criterion(model(images), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():  # evaluation with the same criterion, as many scripts do it
            criterion(model(images), labels)
    return losses


WRAPPERS = {
    "plain": lambda model: model,
    "data parallel": nn.DataParallel,
    "aot_eager": lambda model: torch.compile(model, backend="aot_eager", fullgraph=True),
    "inductor": torch.compile,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_two_lines_purify_and_strength_zero_is_bit_identical_to_the_plain_run(wrap):
    outcomes = []
    for strength in (None, 0.0, BalancedStrength(1.0, fade=0)):
        torch._dynamo.reset()  # compiled code is shared by equal models, with and without hooks
        torch.manual_seed(5)
        model, criterion = _model(dropout=0.5), nn.CrossEntropyLoss()
        if strength is not None:
            purify = PurifyRegularizer.for_model(model, small_sampler(), strength=strength)
            criterion = purify.criterion(criterion)
        torch.manual_seed(6)
        losses = _train(wrap(model), criterion)
        outcomes.append((losses, {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()))
    assert outcomes[0][0] == outcomes[1][0]
    assert equal_states(outcomes[0][1], outcomes[1][1])
    assert not equal_states(outcomes[0][1], outcomes[2][1])
    assert all(torch.equal(outcomes[0][2], outcome[2]) for outcome in outcomes)


def test_captured_features_are_what_the_explicit_form_would_be_given():
    torch.manual_seed(0)
    model = _model()
    twin = copy.deepcopy(model)
    purify = PurifyRegularizer.for_model(model, small_sampler(), every=1)
    _train(model, purify.criterion(nn.CrossEntropyLoss()), steps=5)

    body, head = twin[:-1], twin[-1]
    explicit = PurifyRegularizer(body, small_sampler(), feature_dim=6, every=1)
    optimizer = torch.optim.SGD(twin.parameters(), 0.05)
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator)
        features = body(images)
        explicit.critic_step()
        loss = nn.functional.cross_entropy(head(features), labels) + explicit.loss(features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for (name, value), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert_close(value, other, msg=name)


def test_evaluation_and_auxiliary_passes_are_ignored():
    model = _model()
    tap = FeatureTap(model)
    model.eval()
    model(torch.rand(2, 3, 8, 8))
    assert tap.current() is None
    model.train()
    with torch.no_grad():
        model(torch.rand(2, 3, 8, 8))
    assert tap.current() is None
    with torch.inference_mode():
        model(torch.rand(2, 3, 8, 8))
    assert tap.current() is None
    model(torch.rand(2, 3, 8, 8))
    tap(torch.rand(3, 3, 8, 8))  # an auxiliary pass keeps the task features
    ((_, features),) = tap.current().forwards
    assert features.shape == (2, 6)


def test_copies_pickles_and_state_dicts_carry_no_tap():
    model = _model()
    keys = list(model.state_dict())
    purify = PurifyRegularizer.for_model(model, small_sampler())
    model(torch.rand(2, 3, 8, 8))  # a captured tensor with its graph
    assert list(model.state_dict()) == keys
    clone = copy.deepcopy(model)
    clone(torch.rand(5, 3, 8, 8))
    assert len(purify.tap.current().newest) == 2  # the clone's forward did not overwrite the original's features
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    for copied in (model, clone):
        stored = pickle.dumps(copied)
        assert b"wdpurify" not in stored
        restored = pickle.loads(stored)
        assert restored(torch.rand(2, 3, 8, 8)).shape == (2, 4)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=False)(torch.rand(2, 3, 8, 8)).shape == (2, 4)


@names_kept_by_export
def test_exported_and_traced_models_equal_the_plain_ones():
    model = _model().eval()
    images = torch.rand(2, 3, 8, 8)
    plain = str(torch.export.export(model, (images,)).graph)
    purify = PurifyRegularizer.for_model(model, small_sampler())
    assert str(torch.export.export(model, (images,)).graph) == plain
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        assert_close(torch.jit.trace(model, images)(images), model(images))
    purify.remove()
    assert len(model[-1]._forward_pre_hooks) == 0


def test_a_compiled_model_is_not_compiled_again_after_its_warm_up():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model = _model()
    criterion = PurifyRegularizer.for_model(model, small_sampler()).criterion(nn.CrossEntropyLoss())
    compiled = torch.compile(model, backend=counter)
    _train(compiled, criterion, steps=2)
    warm = counter.frame_count
    _train(compiled, criterion, steps=6)
    assert counter.frame_count == warm > 0


def test_removed_tap_lets_the_loop_go_on_plainly():
    model = _model()
    purify = PurifyRegularizer.for_model(model, small_sampler())
    criterion = purify.criterion(nn.CrossEntropyLoss())
    _train(model, criterion, steps=2)
    purify.remove()
    assert len(_train(model, criterion, steps=2)) == 2


def test_a_middle_layer_can_be_tapped_by_name():
    model = _model()
    purify = PurifyRegularizer.for_model(model, small_sampler(), layer="1", strength=BalancedStrength(1.0, fade=0))  # conv maps
    criterion = purify.criterion(nn.CrossEntropyLoss())
    _train(model, criterion)
    assert purify.critic[0].in_features == 8
    assert purify.metrics().gradient_ratio > 0


def test_criterion_passes_everything_through():
    inner = nn.CrossEntropyLoss(label_smoothing=0.25)
    purify = PurifyRegularizer.for_model(_model(), small_sampler())
    criterion = purify.criterion(inner)
    assert criterion.label_smoothing == 0.25
    assert criterion.to("cpu") is criterion
    assert criterion.double() is criterion
    scores, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    assert criterion(scores, target=labels) == inner(scores, labels)
    with pytest.raises(AttributeError, match="no_such"):
        _ = criterion.no_such


def _gradient(loss, model):
    """At the first layer, whose gradient tells the task's and the term's apart from nothing else."""
    return torch.autograd.grad(loss, next(model.parameters()), retain_graph=True)[0]


def test_every_result_of_a_pass_carries_the_term_in_the_mean_of_a_loss_per_sample():
    model = _model()
    purify = PurifyRegularizer.for_model(model, small_sampler(), strength=FixedStrength(1.0), every=1)
    inner = nn.CrossEntropyLoss(reduction="none")
    criterion = purify.criterion(inner)
    images, labels = torch.rand(12, 3, 8, 8), torch.randint(4, (12,))
    criterion(model(images), labels).mean().backward()
    scores = model(images)
    first = criterion(scores, labels)
    second = criterion(scores, labels)  # a second call for the same forward, as mixup callbacks make it
    plain = inner(scores, labels)
    assert torch.equal(first, plain)
    assert torch.equal(second, plain)
    pull = _gradient(first.mean(), model) - _gradient(plain.mean(), model)
    assert pull.norm() > 0
    assert_close(_gradient(second.mean(), model) - _gradient(plain.mean(), model), pull)
    assert_close(_gradient(first[0], model) - _gradient(plain[0], model), pull)


def test_a_criterion_that_returns_no_tensor_is_named():
    model = _model()
    purify = PurifyRegularizer.for_model(model, small_sampler())
    criterion = purify.criterion(lambda scores, labels: {"loss": scores.sum()})
    with pytest.raises(TypeError, match=r"must return a tensor, got dict.*purify\.loss\(features\)"):
        criterion(model(torch.rand(2, 3, 8, 8)), None)


def test_a_tap_that_sees_nothing_says_so_once():
    purify = PurifyRegularizer.for_model(_model(), small_sampler())
    criterion = purify.criterion(nn.CrossEntropyLoss())
    other = _model()
    with pytest.warns(wdpurify.exceptions.PullNotAppliedWarning, match="Train the very model") as caught:
        _train(other, criterion, steps=9)
    assert len(caught) == 1


class _OwnForward(nn.Module):
    """A user's wrapper that does work of its own under a child called `module`."""

    def __init__(self, module, seen):
        super().__init__()
        self.module = module
        self.record = seen.append  # a method, so that the list is neither copied nor put back

    def forward(self, images):
        self.record(2.0 * images)
        return self.module(2.0 * images)


def test_a_users_own_wrapper_is_not_looked_through():
    seen = []
    extract = _OwnForward(nn.Linear(4, 3), seen)
    sampler = GroupSampler(torch.ones(20, 4), [0, 1] * 10, batch_size=8)
    PurifyRegularizer(extract, sampler, feature_dim=3).critic_step()
    assert torch.equal(seen[0], torch.full((8, 4), 2.0))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FeatureTap(nn.Sequential(nn.Conv2d(1, 1, 1))), ValueError, r"has no nn\.Linear.*layer="),
        (lambda: FeatureTap(_model(), "nine"), ValueError, "`layer` must be the name of one of the model's layers, got 'nine'"),
        (
            lambda: PurifyRegularizer(nn.Linear(3, 3), small_sampler(), feature_dim=3).criterion(nn.MSELoss()),
            ValueError,
            r"`criterion\(\)` needs captured features",
        ),
    ],
)
def test_what_cannot_be_tapped_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


class _HeadsInAList(nn.Module):
    """A head for each task, which torch does not see."""

    def __init__(self):
        super().__init__()
        self.heads_of_tasks = [nn.Linear(4, 2), nn.Linear(4, 3)]

    def forward(self, features):
        return [head(features) for head in self.heads_of_tasks]


def test_a_head_whose_layers_are_in_a_list_is_proposed_by_name():
    model = nn.Sequential(
        OrderedDict(stem=nn.Conv2d(3, 4, 3), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=_HeadsInAList())
    )
    with pytest.raises(
        ValueError, match=r"name the layer that reads the features with `layer=...`; its last ones are stem, fc$"
    ):
        PurifyRegularizer.for_model(model, small_sampler())
    purify = PurifyRegularizer.for_model(model, small_sampler(), layer="fc", strength=FixedStrength(1.0))
    criterion = purify.criterion(lambda scores: sum(score.square().mean() for score in scores))
    criterion(model(torch.rand(2, 3, 8, 8))).backward()
    assert purify.metrics().gradient_ratio > 0


def test_scripted_models_are_refused_by_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(TypeError, match="TorchScript module"):
        FeatureTap(scripted)


def test_two_regularizers_on_one_model_do_not_see_each_others_auxiliary_rows():
    model = _model()
    first, second = (PurifyRegularizer.for_model(model, small_sampler(), every=1) for _ in range(2))
    model(torch.rand(5, 3, 8, 8))
    first.critic_step()
    assert second.tap.current().newest.shape == (5, 6)


def test_layers_that_work_in_place_on_their_input_can_be_tapped():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(6, 4)))
    purify = PurifyRegularizer.for_model(model, small_sampler(), layer="2")
    assert len(_train(model, purify.criterion(nn.CrossEntropyLoss()), steps=3)) == 3


def test_gradient_checkpointing_around_the_tapped_layer_is_tolerated():
    model = _model()
    purify = PurifyRegularizer.for_model(model, small_sampler(), every=1)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    for reentrant in (True, False):
        for _ in range(2):
            images = torch.rand(4, 3, 8, 8, requires_grad=True)
            criterion(checkpoint(model, images, use_reentrant=reentrant), torch.zeros(4, dtype=torch.long)).backward()
        assert purify.tap.current() is None  # the forward that backward runs once more leaves nothing behind


def test_a_refused_option_leaves_no_hook_behind():
    model = _model()
    with pytest.raises(ValueError, match="`every`"):
        PurifyRegularizer.for_model(model, small_sampler(), every=0)
    assert len(model[-1]._forward_pre_hooks) == 0


def test_criterion_is_transparent_to_assignment_and_copies():
    inner = nn.CrossEntropyLoss()
    criterion = PurifyRegularizer.for_model(_model(), small_sampler()).criterion(inner)
    criterion.label_smoothing = 0.5
    assert inner.label_smoothing == 0.5
    clone = copy.deepcopy(criterion)
    clone.label_smoothing = 0.0
    assert inner.label_smoothing == 0.5
    outer = nn.Module()
    outer.part = inner
    assert PurifyRegularizer.for_model(_model(), small_sampler()).criterion(outer).part is inner
