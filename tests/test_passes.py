"""A pass is what is back-propagated: however a loop makes its losses, the pull is that of one concatenated batch, once."""

import copy
import math
import warnings

import pytest
import torch
from small_loop import small_sampler
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.testing import assert_close

import wdpurify
from wdpurify import BalancedStrength, FixedStrength, OneSided, PurifyRegularizer, TwoSided
from wdpurify.exceptions import PullNotAppliedWarning


class _Model(nn.Module):
    """No layer in which rows of a batch see each other, so that parts and whole are the same."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Tanh())
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        return self.head(self.body(images))


def _model():
    torch.manual_seed(0)
    return _Model()


def _data(step, rows=16):
    generator = torch.Generator().manual_seed(step)
    return torch.rand((rows, 3, 8, 8), generator=generator), torch.randint(4, (rows,), generator=generator)


def _loss_maker(form, model, options):
    """A function of a part of the batch that gives its loss with the term, and the regularizer."""
    if form == "explicit":
        purify = PurifyRegularizer(model.body, small_sampler(), feature_dim=6, every=1, **options)

        def loss_of(images, labels):
            purify.critic_step()
            features = model.body(images)
            return nn.functional.cross_entropy(model.head(features), labels) + purify.loss(features)

        return purify, loss_of
    purify = PurifyRegularizer.for_model(model, small_sampler(), every=1, **options)
    if form == "tapped":
        criterion = purify.criterion(nn.CrossEntropyLoss())
        return purify, lambda images, labels: criterion(model(images), labels)
    return purify, lambda images, labels: nn.functional.cross_entropy(model(images), labels) + purify.loss()


OPTIONS = {
    "balanced": lambda: {"strength": BalancedStrength(1.0, fade=0)},
    "fixed": lambda: {"strength": FixedStrength(0.5)},
    "one-sided": lambda: {"strength": FixedStrength(0.5), "objective": OneSided()},
}


def _trained(form, options, parts, reduction="mean", steps=6):
    model = _model()
    purify, loss_of = _loss_maker(form, model, options())
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(steps):
        images, labels = _data(step)
        losses = [loss_of(*part) for part in zip(images.chunk(parts), labels.chunk(parts), strict=True)]
        total = torch.stack(losses)
        total = total.mean() if reduction == "mean" else total.sum() / parts
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return model, purify


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("form", ["explicit", "tapped", "term"])
def test_several_forwards_before_one_backward_are_one_concatenated_batch(form, options, parts):
    whole, one = _trained(form, options, 1)
    pieces, several = _trained(form, options, parts)
    assert_close(pieces.state_dict(), whole.state_dict(), rtol=1e-4, atol=1e-6)
    # One-sided pulls are told from their passes one by one, whose sizes differ a little.
    assert_close(several.metrics().gradient_ratio, one.metrics().gradient_ratio, rtol=1e-2, atol=0)
    assert several.sampler.state_dict() == one.sampler.state_dict()
    plain, _ = _trained(form, lambda: {"strength": 0.0}, 1)
    assert max((plain.state_dict()[name] - value).abs().max() for name, value in whole.state_dict().items()) > 1e-5


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_task_gradient_of_summed_domain_losses_is_that_of_their_concatenation(parts):
    model = _model()
    purify, loss_of = _loss_maker("tapped", model, {"strength": BalancedStrength(1.0, fade=0)})
    images, labels = _data(0)
    losses = [loss_of(*part) for part in zip(images.chunk(parts), labels.chunk(parts), strict=True)]
    sum(losses).backward()

    features = model.body(images).detach().requires_grad_()
    pieces = zip(features.chunk(parts), labels.chunk(parts), strict=True)
    sum(nn.functional.cross_entropy(model.head(piece), target) for piece, target in pieces).backward()
    assert_close(purify._loop._controller.task_gradients.latest.norm, features.grad.norm() / parts)


def test_two_forwards_for_one_criterion_are_one_pass():
    """A siamese loss: both forwards count, the term once."""
    model = _model()
    purify = PurifyRegularizer.for_model(model, small_sampler(), every=1, strength=BalancedStrength(1.0, fade=0))
    criterion = purify.criterion(lambda first, second: (first - second).square().mean())
    first, second = _data(0)[0], _data(1)[0]
    criterion(model(first), model(second)).backward()
    features = [model.body(images).detach().requires_grad_() for images in (first, second)]
    (model.head(features[0]) - model.head(features[1])).square().mean().backward()
    measured = purify._loop._controller.task_gradients.latest.norm
    assert_close(measured, torch.hypot(features[0].grad.norm(), features[1].grad.norm()))
    assert purify.sampler.state_dict()["drawn"] == 1


@pytest.mark.parametrize("objective", [TwoSided(), OneSided()], ids=["two-sided", "one-sided"])
def test_a_forward_whose_features_nothing_keeps_does_not_upset_the_others(objective):
    model = _model()
    model.head.requires_grad_(False)  # so that the graph needs its weight alone, not the features
    purify = PurifyRegularizer.for_model(model, small_sampler(), every=1, objective=objective, strength=FixedStrength(0.5))
    criterion = purify.criterion(lambda *scores: sum(each.square().mean() for each in scores))
    criterion(*(model(_data(step)[0]) for step in range(3))).backward()
    assert purify.metrics().gradient_ratio > 0


def _gradient(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.body.parameters()])


def _pulled(use, strength=None):
    """The gradient that a loop's way of using the criterion adds to the extractor, beside the plain one."""
    gradients = []
    for purified in (True, False):
        model = _model()
        criterion = nn.CrossEntropyLoss()
        if purified:
            strength = strength or FixedStrength(0.5)
            criterion = PurifyRegularizer.for_model(model, small_sampler(), every=1, strength=strength).criterion(criterion)
        images, labels = _data(0)
        use(model, criterion, images, labels)
        gradients.append(_gradient(model))
    return gradients[0] - gradients[1]


def _once(model, criterion, images, labels):
    criterion(model(images), labels).backward()


def test_a_first_result_that_only_weighs_or_is_logged_leaves_the_term_to_the_second():
    def logged(model, criterion, images, labels):
        scores = model(images)
        criterion(scores, labels).item()
        criterion(scores, labels).backward()

    def weighed(model, criterion, images, labels):
        scores = model(images)
        weight = torch.exp(criterion(scores, labels).detach())
        (weight / weight.detach() * criterion(scores, labels)).backward()

    pull = _pulled(_once)
    assert pull.norm() > 1e-4
    assert_close(_pulled(logged), pull)
    assert_close(_pulled(weighed), pull, rtol=1e-4, atol=1e-6)


def _weak_and_strong(model, criterion, images, labels, *, together=True, mask=1.0):
    """FixMatch: both forwards come first, then a loss of each."""
    weak, strong = model(images[:8]), model(images[8:])
    losses = criterion(weak, labels[:8]), mask * criterion(strong, labels[8:])
    if together:
        (sum(losses) / 2).backward()
    else:
        for loss in losses:
            (loss / 2).backward()


@pytest.mark.parametrize("together", [True, False])
def test_losses_made_after_all_forwards_carry_the_term_of_their_own_forward(together):
    def both(*arguments):
        _weak_and_strong(*arguments, together=together)

    assert_close(_pulled(both), _pulled(_once), rtol=1e-4, atol=1e-6)


def test_each_of_several_forwards_keeps_its_term_until_its_own_backward():
    def one_by_one(model, criterion, images, labels):
        scores = [model(each) for each in images.chunk(4)]
        for score, label in zip(scores, labels.chunk(4), strict=True):
            (criterion(score, label) / 4).backward()

    assert_close(_pulled(one_by_one), _pulled(_once), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["frozen head", "autocast"])
def test_a_layer_that_does_not_save_its_input_loses_no_forward(kind):
    def made():
        model = _model()
        if kind == "frozen head":
            model.head.requires_grad_(False)
        return model

    def gradient(purified, parts):
        model, criterion = made(), nn.CrossEntropyLoss()
        if purified:
            purify = PurifyRegularizer.for_model(model, small_sampler(), strength=FixedStrength(0.5))
            criterion = purify.criterion(criterion)
        images, labels = _data(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            scores = [model.head(_in_float32(model.body, each)) for each in images.chunk(parts)]
            for score, label in zip(scores, labels.chunk(parts), strict=True):
                (criterion(score, label) / parts).backward()
        return _gradient(model)

    pull = gradient(True, 1) - gradient(False, 1)
    assert pull.norm() > 1e-4
    assert_close(gradient(True, 4) - gradient(False, 4), pull, rtol=5e-2, atol=1e-3)


def _in_float32(body, images):
    """As LayerNorm under autocast on a GPU."""
    with torch.autocast("cpu", enabled=False):
        return body(images)


@pytest.mark.parametrize("attacks", [1, 2, 5])
def test_an_attack_between_the_forward_and_its_criterion_takes_no_term_away(attacks):
    def attacked(model, criterion, images, labels):
        scores = model(images)
        for _ in range(attacks):
            images = images.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(images), labels), images)
            images = images + 0.01 * gradient.sign()
        criterion(scores, labels).backward()

    assert_close(_pulled(attacked), _pulled(_once))


def test_a_logged_result_before_another_forward_leaves_the_term_to_the_next():
    def logged(model, criterion, images, labels):
        weak = model(images[:8])
        criterion(weak, labels[:8]).item()
        strong = model(images[8:])
        ((criterion(weak, labels[:8]) + criterion(strong, labels[8:])) / 2).backward()

    assert_close(_pulled(logged), _pulled(_once), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_masked_second_loss_leaves_the_term_to_the_first(compiled):
    if compiled:
        torch._dynamo.reset()

    def masked(model, *arguments):
        run = torch.compile(model, backend="aot_eager") if compiled else model
        _weak_and_strong(run, *arguments, mask=0.0)

    assert_close(_pulled(masked), 0.5 * _pulled(_once), rtol=1e-4, atol=1e-6)


def test_two_criteria_of_one_batch_weighted_by_mixup_pull_as_one():
    def mixed(model, criterion, images, labels):
        scores = model(images)
        (0.3 * criterion(scores, labels) + 0.7 * criterion(scores, labels.flip(0))).backward()

    def plainly(model, criterion, images, labels):
        scores = model(images)
        soft = 0.3 * nn.functional.one_hot(labels, 4) + 0.7 * nn.functional.one_hot(labels.flip(0), 4)
        criterion(scores, soft).backward()

    assert_close(_pulled(mixed), _pulled(plainly), rtol=1e-4, atol=1e-6)


def test_a_retained_graph_gets_the_term_of_each_backward():
    def twice(model, criterion, images, labels):
        loss = criterion(model(images), labels)
        loss.backward(retain_graph=True)
        loss.backward()

    assert_close(_pulled(twice), 2 * _pulled(_once), rtol=1e-4, atol=1e-6)


def test_who_asks_for_the_gradient_at_the_features_first_loses_no_term():
    """Representation self-challenging: the features are masked by their own gradient before the loss is made."""

    def masked(model, criterion, images, labels):
        features = model.body(images)
        (gradient,) = torch.autograd.grad(model.head(features).sum(), features)
        criterion(model.head(features * (gradient < gradient.max())), labels).backward()

    assert _pulled(masked).norm() > 1e-4


def test_a_loss_of_another_model_gets_no_term_and_the_right_one_does():
    other = _model()

    def mutual(model, criterion, images, labels):
        scores = model(images)
        criterion(other(images), labels).backward()  # would free the graph of `model` if the term were in it
        criterion(scores, labels).backward()

    assert_close(_pulled(mutual), _pulled(_once), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["explicit", "tapped", "term"])
def test_gradients_asked_for_by_autograd_grad_are_purified_and_heard(form):
    def trained(strength):
        model = _model()
        purify, loss_of = _loss_maker(form, model, {"strength": strength})
        for step in range(4):
            gradients = torch.autograd.grad(loss_of(*_data(step)), list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.05 * gradient
            purify.optimizer_stepped()
        return model, purify

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, purify = trained(BalancedStrength(1.0, fade=0))
    assert_close(purify.metrics().gradient_ratio * purify.metrics().coherence_excess, 1.0, rtol=0.3, atol=0)
    plain, _ = trained(0.0)
    assert (model.body[1].weight - plain.body[1].weight).abs().max() > 1e-5


def test_a_fixed_strength_never_warns_of_a_balanced_one():
    model = _model()
    purify = PurifyRegularizer(model.body, small_sampler(), feature_dim=6, every=1, strength=FixedStrength(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(9):
            model.zero_grad()
            purify.critic_step()
            features = model.body(_data(step)[0])
            (model.head(features.detach()).sum() + purify.loss(features)).backward()
            purify.optimizer_stepped()
    assert purify.sampler.state_dict()["drawn"] == 9


@pytest.mark.parametrize("objective", [TwoSided(), OneSided()], ids=["two-sided", "one-sided"])
def test_parameters_of_ones_own_are_pulled_or_it_is_said_that_they_are_not(objective):
    model = _model()
    purify = PurifyRegularizer.for_model(model, small_sampler(), every=1, objective=objective, strength=FixedStrength(0.5))
    criterion = purify.criterion(nn.CrossEntropyLoss())
    own = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}

    def steps():
        for step in range(3):
            images, labels = _data(step)
            criterion(functional_call(model, own, (images,)), labels).backward()
            purify.optimizer_stepped()

    if objective == TwoSided():
        with pytest.warns(PullNotAppliedWarning, match=r"functional_call.*OneSided\(\)") as caught:
            steps()
        assert len(caught) == 1
        assert math.isnan(purify.metrics().gradient_ratio)
        assert all(parameter.grad is None for parameter in model.parameters())
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            steps()
        assert purify.metrics().gradient_ratio > 0


@pytest.mark.parametrize("runs", ["the clone", "the model"])
def test_clones_that_an_optimiser_trains_in_the_models_place_are_named(runs):
    model = _model()
    purify = PurifyRegularizer(model.body, small_sampler(), feature_dim=6, every=1, strength=FixedStrength(0.5))
    clone = copy.deepcopy(model)
    twin = clone if runs == "the clone" else model  # the latter where an optimiser holds copies in another precision
    optimizer = torch.optim.SGD(clone.parameters(), 0.05)

    def steps():
        for step in range(9):
            images, labels = _data(step)
            purify.critic_step()
            features = twin.body(images)
            loss = nn.functional.cross_entropy(twin.head(features), labels) + purify.loss(features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    said = "ran with other parameters" if runs == "the clone" else "a copy has other parameters"
    with pytest.warns(PullNotAppliedWarning, match=said):
        steps()
    assert math.isnan(purify.metrics().gradient_ratio)


def test_a_model_that_takes_the_tapped_ones_place_later_is_named():
    model = _model()
    purify = PurifyRegularizer.for_model(model, small_sampler())
    criterion = purify.criterion(nn.CrossEntropyLoss())

    def train(trained, steps):
        optimizer = torch.optim.SGD(trained.parameters(), 0.05)
        for step in range(steps):
            images, labels = _data(step)
            optimizer.zero_grad()
            criterion(trained(images), labels).backward()
            optimizer.step()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, 8)
        model.eval()
        for step in range(20):  # evaluation with the same criterion and grad mode on
            criterion(model(_data(step)[0]), _data(step)[1])
        model.train()
        train(model, 3)
        model.eval()  # how a fold usually ends
    best = copy.deepcopy(model).train()
    with pytest.warns(PullNotAppliedWarning, match="copies and fresh models need one of their own"):
        train(best, 8)


def test_torch_func_works_over_a_tapped_model_with_and_without_the_term():
    plain = _model()
    model = copy.deepcopy(plain)
    purify = PurifyRegularizer.for_model(model, small_sampler(), strength=FixedStrength(0.5), every=1)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    images, labels = _data(0)

    def loss(parameters, network, inner):
        return inner(functional_call(network, parameters, (images,)), labels)

    def parameters(network):
        return {name: value.detach() for name, value in network.named_parameters()}

    expected = grad(loss)(parameters(plain), plain, nn.CrossEntropyLoss())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(grad(loss)(parameters(model), model, nn.CrossEntropyLoss()), expected)
        assert_close(grad(loss)(parameters(model), model, criterion), expected)
        assert_close(vmap(model)(images[:, None]), vmap(plain)(images[:, None]))
        warnings.simplefilter("ignore", FutureWarning)  # torch's own at the first jvp of a process
        warnings.simplefilter("ignore", DeprecationWarning)
        assert_close(jvp(model, (images,), (images,)), jvp(plain, (images,), (images,)))
    explicit = PurifyRegularizer(model.body, small_sampler(), feature_dim=6, strength=FixedStrength(0.5), every=1)
    explicit.critic_step()
    with pytest.warns(PullNotAppliedWarning, match=r"torch\.func"):
        grad(lambda rows: model.body(rows).sum() + explicit.loss(model.body(rows)))(images)


def test_a_term_is_zero_before_a_forward_and_after_its_backward_and_never_stale():
    model = _model()
    purify = PurifyRegularizer.for_model(model, small_sampler(), strength=FixedStrength(0.5), every=1)
    assert purify.loss() == 0
    images, labels = _data(0)
    loss = nn.functional.cross_entropy(model(images), labels)
    (loss + purify.loss()).backward()
    assert purify.loss() == 0
    model.eval()
    model(images)
    assert purify.loss() == 0
    model.train()
    nn.functional.cross_entropy(model(images), labels).backward()  # a backward without the term: its graph is gone
    term = purify.loss()
    assert term == 0
    assert not term.requires_grad
    scores = model(images)
    (nn.functional.cross_entropy(scores, labels) + 0.5 * purify.loss() + 0.5 * purify.loss()).backward()


def test_a_critic_step_under_no_grad_still_prepares_the_pull():
    gradients = []
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        model = _model()
        purify = PurifyRegularizer(model.body, small_sampler(), feature_dim=6, strength=FixedStrength(0.5), every=1)
        with context():
            purify.critic_step()
        features = model.body(_data(0)[0])
        (0.0 * features.sum() + purify.loss(features)).backward()
        gradients.append(_gradient(model))
    assert gradients[0].norm() > 1e-4
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_micro_batches_share_one_auxiliary_forward_and_a_climb_gets_its_own():
    model = _model()
    calls = []
    purify = PurifyRegularizer(
        lambda images: calls.append(len(images)) or model.body(images), small_sampler(), feature_dim=6, every=1, model=model
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(2):
        for part in range(3):
            purify.critic_step()
            features = model.body(_data(3 * step + part)[0])
            (model.head(features).sum() / 3 + purify.loss(features)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert len(calls) == 2
    purify.critic_step()
    with torch.no_grad():
        model.body[1].weight.add_(0.01)
    purify.critic_step()
    assert len(calls) == 4


def test_nested_criteria_of_two_regularizers_both_pull():
    def once(model, criterion, images, labels):
        criterion(model(images), labels).backward()

    gradients = []
    for regularizers in (0, 1, 2):
        model = _model()
        criterion = nn.CrossEntropyLoss()
        for seed in range(regularizers):
            purify = PurifyRegularizer.for_model(model, small_sampler(), every=1, strength=FixedStrength(0.5), seed=seed)
            criterion = purify.criterion(criterion)
        assert isinstance(criterion, nn.CrossEntropyLoss)
        once(model, criterion, *_data(0))
        gradients.append(_gradient(model))
    assert not torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[1], gradients[2])


def test_each_of_two_regularizers_balances_against_the_task_alone():
    def task_norms(seeds):
        model = _model()
        criterion = nn.CrossEntropyLoss()
        made = []
        for seed in seeds:
            made.append(PurifyRegularizer.for_model(model, small_sampler(), strength=BalancedStrength(2.0, fade=0), seed=seed))
            criterion = made[-1].criterion(criterion)
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        for number in range(3):
            criterion(model(_data(number)[0]), _data(number)[1]).backward()
            optimizer.step()
            optimizer.zero_grad()
        return [purify.strength.task_norm.item() for purify in made]

    (alone,) = task_norms([0])
    assert task_norms([0, 1]) == pytest.approx([alone, alone], rel=1e-6)


def test_the_names_that_a_user_types_are_few():
    names = [name for name in vars(wdpurify) if not name.startswith("_")]
    objects = [name for name in names if not isinstance(getattr(wdpurify, name), type(wdpurify))]
    assert len(objects) <= 15
