"""Accelerate: prepare, accumulate, clipping, checkpoints, trackers; one process here, two in the pages' tests."""

import pytest
import torch
from small_loop import equal_states, small_sampler, state_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from wdpurify import BalancedStrength

pytest.importorskip("accelerate")
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.tracking import GeneralTracker

from wdpurify.exceptions import ResumeWarning
from wdpurify.integrations.hf_accelerate import log_metrics, purified


@pytest.fixture(autouse=True)
def _fresh_state():
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


class _Memory(GeneralTracker):
    """A tracker that keeps what it is given."""

    name, requires_logging_directory, main_process_only = "memory", False, False

    def __init__(self):
        self.rows = []

    @property
    def tracker(self):
        return self.rows

    def store_init_configuration(self, values):
        pass

    def log(self, values, step=None, **_):
        self.rows.append((step, values))


def _train(strength, *, steps=8, accumulate=2, precision="no", load=None, save=None, norm=True, start=0, tracker=None, every=1):
    torch.manual_seed(3)
    accelerator = Accelerator(
        cpu=True, gradient_accumulation_steps=accumulate, mixed_precision=precision, log_with=tracker and [tracker]
    )
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(72, 6), nn.ReLU(), nn.Linear(6, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    generator = torch.Generator().manual_seed(4)
    images, labels = torch.rand((96, 3, 8, 8), generator=generator), torch.randint(4, (96,), generator=generator)
    loader = DataLoader(TensorDataset(images, labels), batch_size=6)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    criterion, purify = nn.CrossEntropyLoss(), None
    if strength is not None:
        purify = purified(accelerator, model, small_sampler(), strength=strength, every=every)
        criterion = purify.criterion(criterion)
    if tracker:
        accelerator.init_trackers("run")
    if load:
        accelerator.load_state(load)
    losses = []
    for number, (inputs, targets) in enumerate(loader):
        if not start * accumulate <= number < steps * accumulate:
            continue
        with accelerator.accumulate(model):
            loss = criterion(model(inputs), targets)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if tracker:
            log_metrics(accelerator, purify, step=number, every=4)
    if save:
        accelerator.save_state(save)
    return losses, state_of(accelerator.unwrap_model(model)), purify


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_term_arrives_and_strength_zero_is_the_plain_run(precision):
    plain, watched, purified_run = (
        _train(strength, precision=precision) for strength in (None, 0.0, BalancedStrength(2.0, fade=0))
    )
    assert plain[0] == watched[0]
    assert equal_states(plain[1], watched[1])
    assert not equal_states(plain[1], purified_run[1])


def test_every_counts_accumulated_steps():
    purify = _train(1.0, every=3)[2]
    assert purify.sampler.state_dict()["drawn"] == 3  # steps 0, 3 and 6 of 8, each of two micro-batches


def test_a_run_saved_and_loaded_goes_on_bit_for_bit(tmp_path):
    strength = lambda: BalancedStrength(2.0, fade=0)  # noqa: E731
    whole = _train(strength(), steps=8)
    _train(strength(), steps=4, save=str(tmp_path))
    resumed = _train(strength(), steps=8, start=4, load=str(tmp_path))
    assert equal_states(whole[1], resumed[1])
    assert equal_states(state_of(whole[2].critic), state_of(resumed[2].critic))


def test_figures_reach_the_trackers_at_the_named_steps():
    tracker = _Memory()
    _train(BalancedStrength(2.0, fade=0), tracker=tracker)
    assert [step for step, _ in tracker.rows] == [0, 4, 8, 12]
    assert tracker.rows[-1][1]["purify/spread_kept"] > 0
    with pytest.raises(ValueError, match="`every` must be at least 1"):
        log_metrics(None, None, step=0, every=0)


def test_a_checkpoint_from_before_the_regularizer_was_added_starts_it_afresh(tmp_path):
    _train(None, steps=4, save=str(tmp_path))
    with pytest.warns(ResumeWarning, match=r"purify\.pt does not exist, so the regularizer starts afresh"):
        resumed = _train(1.0, steps=8, start=4, load=str(tmp_path))
    assert resumed[2].sampler.state_dict()["drawn"] == 4


def test_a_second_regularizer_of_an_accelerator_needs_a_name_of_its_own(tmp_path):
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Linear(6, 4)))
    first = purified(accelerator, model, small_sampler())
    with pytest.raises(ValueError, match="`name` must be unique among the regularizers of an accelerator, got 'purify'"):
        purified(accelerator, model, small_sampler())
    purified(accelerator, model, small_sampler(), name="second")
    first.critic_step()
    accelerator.save_state(str(tmp_path))
    assert {path.name for path in tmp_path.glob("*.pt")} >= {"purify.pt", "second.pt"}
    drawn = first.sampler.state_dict()["drawn"]
    first.optimizer_stepped()
    first.critic_step()
    accelerator.load_state(str(tmp_path))
    assert first.sampler.state_dict()["drawn"] == drawn
