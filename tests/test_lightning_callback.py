"""Lightning: the callback adds the term to an unchanged module and goes with the checkpoints."""

import pytest
import torch
from small_loop import equal_states, live_tensors, small_sampler, state_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from wdpurify import BalancedStrength

pytest.importorskip("lightning")
import lightning.pytorch as pl

from wdpurify.integrations.lightning_callback import PurifyCallback

pytestmark = [
    # Lightning's own: torch calls that it makes, and advice on a loader without workers.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:`training_step` returned `None`"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


class _Module(pl.LightningModule):
    def __init__(self, result="tensor", dropout=0.2):
        super().__init__()
        layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()
        self.model = nn.Sequential(*layers, nn.Linear(72, 6), nn.ReLU(), nn.Dropout(dropout), nn.Linear(6, 4))
        self.result = result
        self.losses = []

    def forward(self, images):
        return self.model(images)

    def training_step(self, batch, batch_index):
        if self.result == "none" and batch_index == 1:
            return None
        loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
        self.losses.append(loss.item())
        return {"loss": loss, "more": 1} if self.result == "dict" else loss

    def validation_step(self, batch, batch_index):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


class _ByHand(_Module):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


def _loader():
    generator = torch.Generator().manual_seed(4)
    images, labels = torch.rand((48, 3, 8, 8), generator=generator), torch.randint(4, (48,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=6)


def _fit(callback, *, result="tensor", epochs=1, module=None, resume=None, **options):
    if module is None:
        torch.manual_seed(0)
        module = _Module(result)
    torch.manual_seed(0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=callback and [callback], **(quiet | {"enable_checkpointing": False} | options)
    )
    trainer.fit(module, _loader(), _loader(), ckpt_path=resume)
    return module, trainer


@pytest.mark.parametrize("result", ["tensor", "dict", "none"])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0}, {"precision": "bf16-mixed"}])
def test_the_term_arrives_and_strength_zero_is_the_plain_run(result, options):
    modules = [
        _fit(strength if strength is None else PurifyCallback(small_sampler(), strength=strength), result=result, **options)[0]
        for strength in (None, 0.0, BalancedStrength(2.0, fade=0))
    ]
    states = [state_of(module) for module in modules]
    assert modules[0].losses == modules[1].losses
    assert equal_states(states[0], states[1])
    assert not equal_states(states[0], states[2])
    assert states[0].keys() == states[2].keys()
    assert "training_step" not in vars(modules[2])


def test_a_submodule_can_be_named_and_a_wrong_name_lists_what_there_is():
    by_name, _ = _fit(PurifyCallback(small_sampler(), model="model", strength=BalancedStrength(2.0, fade=0)))
    whole, _ = _fit(PurifyCallback(small_sampler(), strength=BalancedStrength(2.0, fade=0)))
    assert equal_states(state_of(by_name), state_of(whole))
    with pytest.raises(ValueError, match=r"`model` must be the name of a submodule of _Module, got 'net'. Choose from model"):
        _fit(PurifyCallback(small_sampler(), model="net"))


def test_manual_optimisation_is_refused_with_the_way_to_do_it():
    with pytest.raises(ValueError, match=r"add `purify.loss\(\)` to the loss"):
        _fit(PurifyCallback(small_sampler()), module=_ByHand())


def test_a_run_saved_and_resumed_goes_on_bit_for_bit(tmp_path):
    def callback():
        return PurifyCallback(small_sampler(), strength=BalancedStrength(2.0, fade=0), every=3)

    torch.manual_seed(0)
    whole, _ = _fit(callback(), epochs=4, module=_Module(dropout=0.0))
    torch.manual_seed(0)
    _fit(callback(), epochs=2, module=_Module(dropout=0.0), enable_checkpointing=True, default_root_dir=tmp_path)
    path = next(tmp_path.rglob("*.ckpt"))
    assert torch.load(path, weights_only=False)["state_dict"].keys() == _Module().state_dict().keys()
    again = callback()
    resumed, _ = _fit(again, epochs=4, resume=str(path), module=_Module(dropout=0.0))
    assert again.state_dict()["ranks"][0]["loop.acted"] == 11  # of 32 steps, every third
    assert equal_states(state_of(resumed), state_of(whole))


def test_figures_are_logged(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    callback = PurifyCallback(small_sampler(), strength=BalancedStrength(2.0, fade=0), log_every=2)
    _fit(callback, logger=logger, log_every_n_steps=2)
    logger.save()
    assert "purify/separation" in next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[0]


def test_the_last_call_comes_after_fit():
    callback = PurifyCallback(small_sampler())
    module, _ = _fit(callback)
    keys = list(module.state_dict())
    before = state_of(module)
    report = callback.purify.erase(_loader())
    assert report.refitted == 48
    assert list(module.state_dict()) == keys
    changed = [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["model.7.weight", "model.7.bias"]


class _Counted(_Module):
    def on_train_batch_end(self, outputs, batch, batch_index):
        if self.global_step in (48, 200):  # each ends an epoch
            self.alive[self.global_step] = live_tensors()


@pytest.mark.filterwarnings("ignore::wdpurify.exceptions.PurifyWarning")  # of labels without a meaning
def test_two_hundred_steps_hold_as_many_tensors_as_fifty():
    module = _Counted()
    module.alive = {}
    _fit(PurifyCallback(small_sampler(), strength=BalancedStrength(2.0), log_every=8), module=module, epochs=25)
    assert module.alive[200] == module.alive[48]
