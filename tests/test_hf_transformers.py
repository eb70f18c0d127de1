"""transformers: the Trainer's loss gets the term with the right divisor, and its checkpoints the regularizer's state."""

import pytest
import torch
from small_loop import equal_states, live_tensors, state_of
from torch import nn

from wdpurify import BalancedStrength, FixedStrength, GroupSampler

pytest.importorskip("transformers")
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput

from wdpurify.integrations.hf_transformers import purify_trainer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # transformers' own


class _Rows(torch.utils.data.Dataset):
    def __init__(self, rows, shift=0.0):
        generator = torch.Generator().manual_seed(rows)
        self.images = torch.rand((rows, 3, 16, 16), generator=generator)
        self.labels = torch.randint(4, (rows,), generator=generator).tolist()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        return {"pixel_values": self.images[row], "labels": self.labels[row]}


def _sampler():
    groups = [row % 3 for row in range(60)]
    images = torch.rand((60, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    rows = [{"pixel_values": image + group} for image, group in zip(images, groups, strict=True)]
    return GroupSampler(rows, groups, batch_size=12)


def _vit():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_labels=4, **sizes))


class _Normalised(nn.Module):
    """A model that takes `num_items_in_batch`, as language models do: its loss is a share of the accumulated batch's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.classifier = nn.Linear(768, 8), nn.Linear(8, 4)

    def forward(self, pixel_values, labels=None, num_items_in_batch=None, **kwargs):
        logits = self.classifier(torch.relu(self.body(pixel_values.flatten(1))))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum") / (num_items_in_batch or len(labels))
        return ImageClassifierOutput(loss=loss, logits=logits)


def _train(folder, strength=None, *, model=_vit, batch_size=6, resume=None, callbacks=None, **options):
    defaults = {"max_steps": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "optim": "sgd"}
    quiet = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "seed": 0, "logging_steps": 1}
    pinned = {"dataloader_pin_memory": False}
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=batch_size, **(defaults | quiet | pinned | options)
    )
    trainer = Trainer(model=model(), args=arguments, train_dataset=_Rows(48), eval_dataset=_Rows(8), callbacks=callbacks)
    purify = None if strength is None else purify_trainer(trainer, _sampler(), strength=strength)
    trainer.train(resume_from_checkpoint=resume)
    trainer.evaluate()
    return trainer, purify


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}])
@pytest.mark.parametrize("model", [_vit, _Normalised])
def test_the_term_arrives_and_strength_zero_is_the_plain_run(tmp_path, model, options):
    trainers = [
        _train(tmp_path, strength, model=model, **options)[0] for strength in (None, 0.0, BalancedStrength(2.0, fade=0))
    ]
    states = [state_of(trainer.model) for trainer in trainers]
    history = [[row["loss"] for row in trainer.state.log_history if "loss" in row] for trainer in trainers]
    assert history[0] == history[1]
    assert equal_states(states[0], states[1])
    assert not equal_states(states[0], states[2])
    assert "purify_separation" in trainers[2].state.log_history[1]
    assert "purify_separation" not in trainers[0].state.log_history[1]
    evaluated = [trainer.state.log_history[-1]["eval_loss"] for trainer in trainers]
    assert evaluated[0] == evaluated[1]


@pytest.mark.parametrize("model", [_vit, _Normalised])
@pytest.mark.parametrize("strength", [lambda: FixedStrength(0.5), lambda: BalancedStrength(2.0, fade=0)])
def test_accumulation_does_not_change_what_is_trained(tmp_path, model, strength):
    states = [
        state_of(_train(tmp_path, strength(), model=model, batch_size=12 // k, gradient_accumulation_steps=k)[0].model)
        for k in (1, 2, 4)
    ]
    plain = state_of(_train(tmp_path, model=model, batch_size=12)[0].model)
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=1e-3, atol=1e-5)
    assert max((states[0][name] - plain[name]).abs().max() for name in plain) > 1e-4


def test_a_run_saved_and_resumed_goes_on_bit_for_bit(tmp_path):
    options = {"model": _Normalised, "optim": "adamw_torch"}
    whole, purify = _train(tmp_path / "whole", BalancedStrength(2.0, fade=0), max_steps=7, **options)
    saving = {"save_strategy": "steps", "save_steps": 4}
    _train(tmp_path / "parts", BalancedStrength(2.0, fade=0), max_steps=4, **options, **saving)
    assert (tmp_path / "parts" / "checkpoint-4" / "purify.pt").exists()
    resumed, again = _train(tmp_path / "parts", BalancedStrength(2.0, fade=0), max_steps=7, resume=True, **options, **saving)
    assert equal_states(state_of(whole.model), state_of(resumed.model))
    assert equal_states(state_of(purify.critic), state_of(again.critic))


def test_a_trainer_without_a_model_is_refused():
    class Bare:
        model = None

    with pytest.raises(ValueError, match="Give the Trainer `model=`"):
        purify_trainer(Bare(), _sampler())


def test_a_trainer_that_makes_its_model_later_and_a_second_regularizer_are_refused(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    late = Trainer(model_init=_vit, args=arguments, train_dataset=_Rows(8))
    with pytest.raises(ValueError, match="`trainer` makes its model in `train\\(\\)`, which the term would not reach"):
        purify_trainer(late, _sampler())
    trainer = Trainer(model=_vit(), args=arguments, train_dataset=_Rows(8))
    purify_trainer(trainer, _sampler())
    with pytest.raises(ValueError, match="`trainer` already has a regularizer"):
        purify_trainer(trainer, _sampler())


@pytest.mark.parametrize("model", [_vit, _Normalised])
def test_the_last_call_takes_the_trainers_own_loader(tmp_path, model):
    trainer, purify = _train(tmp_path, BalancedStrength(), model=model)
    before = state_of(trainer.model)
    report = purify.erase(trainer.get_train_dataloader())
    assert report.refitted == 48
    changed = [name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["classifier.weight", "classifier.bias"]


class _Counted(TrainerCallback):
    def __init__(self):
        self.alive = {}

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in (48, 200):  # each ends an epoch
            self.alive[state.global_step] = live_tensors()


@pytest.mark.filterwarnings("ignore::wdpurify.exceptions.PurifyWarning")  # of labels without a meaning
def test_two_hundred_steps_hold_as_many_tensors_as_fifty(tmp_path):
    counted = _Counted()
    _train(tmp_path, BalancedStrength(2.0), model=_Normalised, max_steps=200, logging_steps=50, callbacks=[counted])
    assert counted.alive[200] == counted.alive[48]
