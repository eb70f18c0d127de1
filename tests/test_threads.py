"""Two trainings in two threads of one process: each ends with the weights that it has alone."""

import threading

import torch
from small_loop import equal_states, state_of
from torch import nn

from wdpurify import BalancedStrength, GroupSampler, PurifyRegularizer


def _model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))


def _train(model, seed, found, gate=None):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((60, 3, 4, 4), generator=generator)
    sampler = GroupSampler(images, [row % 3 for row in range(60)], batch_size=12, seed=seed)
    purify = PurifyRegularizer.for_model(model, sampler, strength=BalancedStrength(1.0, fade=0), seed=seed)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(25):
        if gate is not None:
            gate.wait(timeout=60)
        inputs, labels = torch.rand((8, 3, 4, 4), generator=generator), torch.randint(3, (8,), generator=generator)
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
    found[seed] = state_of(model)


def test_trainings_in_threads_end_with_the_weights_that_each_has_alone():
    alone, together = {}, {}
    for seed in range(3):
        _train(_model(seed), seed, alone)
    gate = threading.Barrier(3)
    models = [_model(seed) for seed in range(3)]
    threads = [threading.Thread(target=_train, args=(models[seed], seed, together, gate)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(together) == [0, 1, 2]
    assert all(equal_states(together[seed], alone[seed]) for seed in alone)
