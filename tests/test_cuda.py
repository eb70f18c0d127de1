"""What can only be seen on a GPU; skipped where there is none."""

import pytest
import torch
from torch import nn

from wdpurify import BalancedStrength, GroupSampler, OneSided, PurifyRegularizer, TwoSided

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def _parts(objective=None):
    extract = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.BatchNorm1d(16), nn.Linear(16, 4)).cuda()
    sampler = GroupSampler(torch.randn(60, 8), [row % 3 for row in range(60)], batch_size=24)
    strength = BalancedStrength(1.0, fade=0)
    return extract, PurifyRegularizer(
        extract, sampler, feature_dim=4, objective=objective or TwoSided(), strength=strength, every=1
    )


def _step(extract, purify, images):
    purify.critic_step()
    features = extract(images)
    (features.square().mean() + purify.loss(features)).backward()


@pytest.mark.parametrize("objective", [TwoSided(), OneSided()])
def test_a_step_never_makes_the_host_wait(objective):
    extract, purify = _parts(objective)
    images = torch.randn(32, 8, device="cuda")
    for _ in range(3):
        _step(extract, purify, images)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            _step(extract, purify, images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert purify.metrics().gradient_ratio > 0


def test_global_random_states_are_left_alone():
    _extract, purify = _parts()
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    purify.critic_step()
    assert torch.equal(before[0], torch.get_rng_state())
    assert torch.equal(before[1], torch.cuda.get_rng_state())


def test_critic_follows_the_features_to_their_device_and_its_state_loads_on_a_cpu():
    extract, purify = _parts()
    _step(extract, purify, torch.randn(32, 8, device="cuda"))
    assert next(purify.critic.parameters()).is_cuda
    other = PurifyRegularizer(nn.Linear(8, 4), purify.sampler, feature_dim=4)
    other.load_state_dict(purify.state_dict())
    assert not next(other.critic.parameters()).is_cuda


def test_half_precision_with_a_scaler():
    extract, purify = _parts()
    scaler = torch.amp.GradScaler("cuda")
    optimizer = torch.optim.SGD(extract.parameters(), 0.1)
    for _ in range(4):
        purify.critic_step()
        with torch.autocast("cuda", torch.float16):
            features = extract(torch.randn(32, 8, device="cuda"))
            loss = features.float().square().mean() + purify.loss(features)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    metrics = purify.metrics()
    assert 0.5 < metrics.gradient_ratio * metrics.coherence_excess < 2.0
    assert all(weight.dtype == torch.float32 for weight in purify.critic.parameters())


def test_a_tapped_model_learns_of_its_task_gradient():
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).cuda()
    sampler = GroupSampler(torch.randn(60, 8), [row % 3 for row in range(60)], batch_size=24)
    purify = PurifyRegularizer.for_model(model, sampler, every=1, strength=BalancedStrength(1.0, fade=0))
    criterion = purify.criterion(nn.CrossEntropyLoss())
    for _ in range(3):
        labels = torch.zeros(32, dtype=torch.long, device="cuda")
        criterion(model(torch.randn(32, 8, device="cuda")), labels).backward()
    assert purify.metrics().gradient_ratio > 0
