"""What is alive after an iteration: no feature, no gradient, no graph, whatever the user's loop does with them."""

import gc
import weakref

import pytest
import torch
from small_loop import small_network, small_sampler
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wdpurify import FixedStrength, OneSided, PurifyRegularizer, TwoSided

ROWS, WIDTH = 37, 61  # no other tensor of a test has this shape


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, images):
        return self.head(self.body(images))


class _Watch(TorchDispatchMode):
    """Knows by weak references which tensors of given shapes are alive of all that torch made meanwhile, gradients too."""

    def __init__(self, *shapes):
        super().__init__()
        self.shapes = shapes or ((ROWS, WIDTH),)
        self.made = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and tuple(value.shape) in self.shapes:
                self.made.append(StorageWeakRef(value.untyped_storage()))
        return result

    def alive(self, *apart):
        """How many storages are alive, once the cycles of Python are collected, beside those of the tensors given."""
        assert self.made
        gc.collect()  # of what came after the start of the test
        others = {StorageWeakRef(value.untyped_storage()) for value in apart}
        return len({reference for reference in self.made if not reference.expired()} - others)


@pytest.fixture(autouse=True)
def _old_heap_is_not_collected():
    gc.freeze()
    yield
    gc.unfreeze()


def _explicit(model, objective):
    purify = PurifyRegularizer(model.body, small_sampler(), feature_dim=WIDTH, objective=objective, strength=FixedStrength(0.1))

    def loss_of(images, labels):
        purify.critic_step()
        features = model.body(images)
        return nn.functional.cross_entropy(model.head(features), labels) + purify.loss(features)

    return loss_of


def _tapped(model, objective):
    purify = PurifyRegularizer.for_model(model, small_sampler(), objective=objective, strength=FixedStrength(0.1))
    criterion = purify.criterion(nn.CrossEntropyLoss())
    return lambda images, labels: criterion(model(images), labels)


def _term(model, objective):
    purify = PurifyRegularizer.for_model(model, small_sampler(), objective=objective, strength=FixedStrength(0.1))
    return lambda images, labels: nn.functional.cross_entropy(model(images), labels) + purify.loss()


FORMS = {"explicit": _explicit, "tapped": _tapped, "term": _term}


class _InterruptedError(Exception):
    """The user's own code gives up."""


@pytest.mark.parametrize("loop", ["plain", "kept losses", "skipped backward", "raises half-way", "no step"])
@pytest.mark.parametrize("objective", [TwoSided(), OneSided()], ids=["two-sided", "one-sided"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_feature_outlives_its_iteration(form, objective, loop):
    model = _Model()
    loss_of = form(model, objective)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    watch = _Watch()
    kept, counts = [], []

    def step(number):
        loss = loss_of(torch.rand(ROWS, 3, 8, 8), torch.randint(4, (ROWS,)))
        if loop == "kept losses":
            kept.append(loss)
        if loop == "raises half-way" and number % 2:
            raise _InterruptedError
        optimizer.zero_grad()
        if not (loop == "skipped backward" and number % 2):
            loss.backward()
        if loop != "no step":
            optimizer.step()

    for number in range(10):
        try:
            with watch:
                step(number)
        except _InterruptedError:
            continue
        if number >= 5:  # with and without an acting iteration
            counts.append(watch.alive())
    # Without a step, or after an interruption, the last pass may still be waiting for its backward.
    assert max(counts) <= (1 if loop in ("no step", "raises half-way") else 0)


@pytest.mark.parametrize("objective", [TwoSided(), OneSided()], ids=["two-sided", "one-sided"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_step_leaves_nothing_to_the_collection_of_garbage(form, objective):
    """Loops with large models turn the collection off, and copies on a GPU do not start it."""
    model = _Model()
    model.body.append(nn.BatchNorm1d(WIDTH))
    loss_of = form(model, objective)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step():
        for _ in range(2):
            loss_of(torch.rand(ROWS, 3, 8, 8), torch.randint(4, (ROWS,))).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(5):
            step()
        gc.collect()
        garbage = [type(each) for each in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert [kind for kind in garbage if issubclass(kind, torch.Tensor) or kind.__module__.startswith("wdpurify")] == []


def test_a_kept_loss_holds_no_gradient_of_the_size_of_features_or_parameters():
    model = _Model()
    loss_of = _explicit(model, TwoSided())
    watch = _Watch((ROWS, WIDTH), (WIDTH, 192))
    kept = []
    with watch:
        for _ in range(3):
            model.zero_grad()
            kept.append(loss_of(torch.rand(ROWS, 3, 8, 8), torch.randint(4, (ROWS,))))
            kept[-1].backward()
    del loss_of
    model.zero_grad()
    assert watch.alive(*model.parameters()) == 0


@pytest.mark.parametrize("layer", [nn.Identity, nn.Flatten])
def test_a_tapped_layer_that_returns_its_input_keeps_no_features_in_a_cycle(layer):
    model = _Model()
    model.body.append(layer())
    purify = PurifyRegularizer.for_model(model, small_sampler(), layer="body.3", feature_dim=WIDTH)
    watch = _Watch()
    with watch:
        for _ in range(5):
            model(torch.rand(ROWS, 3, 8, 8))  # no backward pass frees the graph
    assert watch.alive() <= 2  # of the last forward: the input of its activation, and the features
    purify.remove()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_kept_loss_holds_no_sums_over_rows(form):
    model = _Model()
    loss_of = form(model, TwoSided())
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    kept, sizes = [], []
    for _ in range(8):
        loss = loss_of(torch.rand(ROWS, 3, 8, 8), torch.randint(4, (ROWS,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kept.append(loss)
        gc.collect()
        sizes.append(sum(each.numel() for each in gc.get_objects() if issubclass(type(each), torch.Tensor)))
    assert sizes[-1] - sizes[-2] == kept[-1].numel()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_finished_trial_dies_with_its_model(form):
    def trial():
        model = _Model()
        loss_of = form(model, TwoSided())
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(torch.rand(ROWS, 3, 8, 8), torch.randint(4, (ROWS,))).backward()
            optimizer.step()
        return weakref.ref(model), weakref.ref(model.body[1].weight)

    gone = trial()
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_a_regularizer_that_is_dropped_takes_its_hook_off_the_model():
    model = _Model()
    purify = PurifyRegularizer.for_model(model, small_sampler())
    assert len(model.head._forward_pre_hooks) == 1
    del purify
    gc.collect()
    assert len(model.head._forward_pre_hooks) == 0
    with _Watch() as watch:
        model(torch.rand(ROWS, 3, 8, 8))
    assert watch.alive() == 0


def test_the_pull_of_an_iteration_is_let_go_when_its_optimiser_steps():
    network = small_network()
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, every=1, strength=FixedStrength(1.0))
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    purify.critic_step()
    features = network.features(torch.rand(5, 3, 8, 8))
    (network.head(features).sum() + purify.loss(features)).backward()
    iteration = weakref.ref(purify._loop._iteration)
    assert iteration().pull is not None
    optimizer.step()
    assert iteration() is None  # of the iteration that is over nothing is left
