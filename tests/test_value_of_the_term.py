"""The value of the term: none by the criterion, by ``loss()`` that of the pull; and that its sign plays no part."""

import contextlib

import pytest
import torch
from small_loop import small_network, small_sampler, train
from torch import nn
from torch.testing import assert_close

from wdpurify import BalancedStrength, FixedStrength, GroupSampler, OneSided, PurifyRegularizer
from wdpurify.exceptions import PullNotAppliedWarning
from wdpurify.pull import add_term


def _separated():
    """Rows whose second column is the group, and a network that shows it."""
    generator = torch.Generator().manual_seed(2)
    labels, groups = torch.randint(2, (2, 256), generator=generator)
    images = torch.randn(256, 8, generator=generator) + (2.0 * labels - 1)[:, None] * torch.eye(8)[0]
    auxiliary = torch.randn(256, 8, generator=generator) + 2 * (2.0 * groups - 1)[:, None] * torch.eye(8)[1]
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    return model, images, labels, auxiliary, groups


def _apart(model, rows, groups):
    features = model[:4](rows).detach()
    means = [features[groups == group].mean(0) for group in (0, 1)]
    return ((means[0] - means[1]).norm() / features.std(0).norm()).item()


@pytest.mark.parametrize("value", [0.7, 0.0, -0.0, -3.0, 1e-30, float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_loss_with_the_pull_is_the_loss_bit_for_bit(value, dtype):
    loss = torch.tensor([value, 0.3], dtype=dtype, requires_grad=True)
    term = torch.tensor(12.5, requires_grad=True)
    carrying = add_term(loss, term)
    assert carrying.dtype == dtype
    assert torch.equal(carrying, loss)
    assert torch.equal(carrying.signbit(), loss.signbit())
    carrying.sum().backward()
    assert term.grad == 2.0
    assert loss.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("function", [torch.sqrt, torch.log])
def test_what_is_made_of_the_criterions_value_is_as_without_the_library(function):
    model, images, labels, auxiliary, groups = _separated()
    criterion = nn.CrossEntropyLoss()
    purified = PurifyRegularizer.for_model(model, GroupSampler(auxiliary, groups)).criterion(criterion)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        scores = model(images)
        loss = function(purified(scores, labels))
        assert torch.equal(loss, function(criterion(scores, labels)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["descent", "maximize", "ascent", "ascent by maximize", "advantage"])
def test_the_pull_brings_groups_together_whatever_the_sign_of_the_loss(kind):
    found = {}
    for strength in (0.0, 0.5):
        torch.manual_seed(0)
        model, images, labels, auxiliary, groups = _separated()
        entropy = nn.CrossEntropyLoss(reduction="none" if kind == "advantage" else "mean")
        base = entropy if kind != "maximize" else lambda scores, wanted: -nn.functional.cross_entropy(scores, wanted)
        sampler = GroupSampler(auxiliary, groups)
        criterion = PurifyRegularizer.for_model(model, sampler, strength=strength).criterion(base)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3, maximize="maximize" in kind)
        for step in range(100):
            rows = torch.arange(step * 32 % 256, step * 32 % 256 + 32)
            scores = model(images[rows])
            if "ascent" in kind:
                loss = criterion(scores, 1 - labels[rows]).clamp(max=3)
                loss = -loss if kind == "ascent" else loss
            elif kind == "advantage":
                drawn = torch.distributions.Categorical(logits=scores.detach()).sample()
                reward = (drawn == labels[rows]).float()
                loss = ((reward - reward.mean()) / (reward.std() + 1e-6) * criterion(scores, drawn)).mean()
            else:
                loss = criterion(scores, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found[strength] = _apart(model, auxiliary, groups)
    assert found[0.5] < 0.8 * found[0.0]


def test_the_value_of_a_term_is_what_its_gradient_is_the_gradient_of():
    network = small_network(norm=False)
    purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, strength=FixedStrength(0.25))
    purify.critic_step()
    features = network.features(torch.rand(12, 3, 8, 8))
    term = purify.loss(features)
    assert_close(term.item(), 0.25 * purify.metrics().estimate)


def test_a_balanced_term_is_of_the_size_of_what_it_does():
    terms = {}
    for scale in (1.0, 1000.0):
        torch.manual_seed(0)
        network = small_network(norm=False)
        with torch.no_grad():
            for parameter in network.features[-1].parameters():
                parameter *= scale
            network.head.weight /= scale
        strength = BalancedStrength(0.5, fade=0.0)
        purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, strength=strength)
        train(network, purify, 5, lr=0.0)
        purify.critic_step()
        terms[scale] = purify.loss(network.features(torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1)))).item()
    assert 0 < abs(terms[1.0]) < 1.0
    assert_close(terms[1000.0], terms[1.0], rtol=0.05, atol=0)


@pytest.mark.parametrize("objective", ["default", OneSided()], ids=["two-sided", "one-sided"])
def test_a_negative_factor_of_an_explicit_term_is_named_once_and_counts_by_its_magnitude(objective):
    options = {} if objective == "default" else {"objective": objective}
    gradients = {}
    for factor in (1.0, -1.0):
        torch.manual_seed(0)
        network = small_network(norm=False)
        purify = PurifyRegularizer(network.features, small_sampler(), feature_dim=6, strength=FixedStrength(1.0), **options)
        optimizer = torch.optim.SGD(network.parameters(), 0.0)
        expected = pytest.warns(PullNotAppliedWarning, match="after the minus sign") if factor < 0 else contextlib.nullcontext()
        with expected as caught:
            for _ in range(4):
                purify.critic_step()
                features = network.features(torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
                loss = factor * purify.loss(features)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        gradients[factor] = network.features[-1].weight.grad
        assert caught is None or len(caught) == 1
    assert_close(gradients[-1.0], gradients[1.0])
    assert gradients[1.0].norm() > 0
