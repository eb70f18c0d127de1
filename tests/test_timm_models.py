"""timm's tasks with the purify term: forward, EMA, mixup, accumulation, compilation, checkpoints."""

import numpy
import pytest
import torch
from small_loop import equal_states, state_of
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from wdpurify import BalancedStrength, GroupSampler, PurifyRegularizer

pytest.importorskip("timm.task")
from timm import create_model
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.task import ClassificationTask, LogitDistillationTask
from timm.utils import CheckpointSaver, ModelEmaV3

from wdpurify.exceptions import ResumeWarning
from wdpurify.integrations.timm_models import PurifyTask

# The training loop of timm's train.py, shortened: in-place division, accumulation, autocast, EMA, channels_last.


def _model(num_classes=4):
    torch.manual_seed(0)
    return create_model("resnet10t", num_classes=num_classes, drop_rate=0.1)


def _sampler():
    generator = torch.Generator().manual_seed(1)
    groups = [row % 3 for row in range(60)]
    images = torch.rand((60, 3, 32, 32), generator=generator) + torch.tensor(groups)[:, None, None, None]
    return GroupSampler(images, groups, batch_size=12)


def _train(task, steps=4, *, accumulate=2, mixup=None, autocast=False, channels_last=False, start=0):
    model = task.get_trainable_module()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for step in range(start, steps):
        for part in range(accumulate):
            torch.manual_seed(100 * step + part)
            images, labels = torch.rand(6, 3, 32, 32), torch.randint(4, (6,))
            if mixup is not None:
                images, labels = mixup(images, labels)
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                result = task(images, labels)
                loss = result["loss"]
            loss /= accumulate
            loss.backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        task.update_ema(step=step)
    return losses


def _task(strength=None, criterion=None):
    task = ClassificationTask(_model(), criterion=criterion or nn.CrossEntropyLoss(), verbose=False)
    return task if strength is None else PurifyTask(task, _sampler(), strength=strength)


VARIANTS = {
    "plain": {},
    "accumulated": {"accumulate": 3},
    "mixup": {"mixup": True},
    "bfloat16, channels last": {"autocast": True, "channels_last": True},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_the_term_arrives_and_strength_zero_is_the_plain_run_ema_and_buffers_included(variant):
    outcomes = []
    for strength in (None, 0.0, BalancedStrength(2.0, fade=0)):
        options = dict(variant)
        criterion = None
        if options.get("mixup"):
            options["mixup"] = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=4)
            criterion = SoftTargetCrossEntropy()
        task = _task(strength, criterion)
        task.setup_ema(decay=0.5)
        numpy.random.seed(0)  # noqa: NPY002 - timm's mixup draws from it
        losses = _train(task, **options)
        ema = task.get_trainable_module(ema=True)
        outcomes.append((losses, state_of(task.get_trainable_module()), state_of(ema)))
    assert outcomes[0][0] == outcomes[1][0]
    assert equal_states(outcomes[0][1], outcomes[1][1])
    assert equal_states(outcomes[0][2], outcomes[1][2])
    assert not equal_states(outcomes[0][1], outcomes[2][1])
    assert outcomes[0][1].keys() == outcomes[2][1].keys()


def test_features_are_the_models_own_pre_logits_from_one_forward():
    model = _model().train()
    model.drop_rate = 0.0
    task = PurifyTask(ClassificationTask(model, nn.CrossEntropyLoss(), verbose=False), _sampler())
    images = torch.rand(6, 3, 32, 32)
    calls = []
    model.conv1.register_forward_hook(lambda *_: calls.append(1))
    task.task(images, torch.zeros(6, dtype=torch.long))
    features = task.purify.tap.current().newest
    assert len(calls) == 1
    expected = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(features, expected)


def test_task_state_goes_with_the_checkpoint_and_never_with_the_model(tmp_path):
    plain, task = _task(), _task(BalancedStrength(2.0, fade=0))
    task.setup_ema(decay=0.5)
    _train(task, 4)
    optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), 0.05)
    saver = CheckpointSaver(
        task.get_trainable_module(), optimizer, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path), task=task
    )
    saver.save_checkpoint(0)
    saved = torch.load(next(tmp_path.glob("checkpoint-*.pth.tar")), weights_only=False)
    assert saved["state_dict"].keys() == plain.get_trainable_module().state_dict().keys()
    assert set(saved["task_state"]) == {"purify"}
    assert "purify" not in saved.get("task_state_ema", {})
    _model().load_state_dict(saved["state_dict"])

    resumed = _task(BalancedStrength(2.0, fade=0))
    resumed.load_checkpoint_state(saved["state_dict"], saved["task_state"])
    _train(task, 7, start=4)
    _train(resumed, 7, start=4)
    assert equal_states(state_of(task.get_trainable_module()), state_of(resumed.get_trainable_module()))
    with pytest.warns(ResumeWarning, match="starts afresh"):
        _task(1.0).load_checkpoint_state(saved["state_dict"], None)  # from before the regularizer was added


def test_a_distillation_task_takes_the_term_too():
    student, teacher = _model(), _model()
    inner = LogitDistillationTask(student, teacher, criterion=nn.CrossEntropyLoss(), verbose=False)
    task = PurifyTask(inner, _sampler(), strength=BalancedStrength(2.0, fade=0))
    before = state_of(teacher)
    _train(task, 4)
    assert task.purify.metrics().gradient_ratio > 0
    assert equal_states(before, state_of(teacher))


def test_compilation_is_honoured_and_does_not_recompile_in_each_step():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    task = _task(BalancedStrength(2.0, fade=0))
    task.compile(backend=counter)
    _train(task, 2)
    warm = counter.frame_count
    _train(task, 6, start=2)
    assert warm > 0
    assert counter.frame_count == warm
    assert task.purify.metrics().gradient_ratio > 0
    assert not any(name.startswith("purify") for name in task.get_eval_model().state_dict())


def test_evaluation_goes_past_the_plugin():
    plain, task = _task(), _task(4.0)
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        expected = plain.get_eval_model().eval()(images)
        assert torch.equal(task.get_eval_model().eval()(images), expected)
    ema = ModelEmaV3(task.get_trainable_module())
    ema.update(task.get_trainable_module())
    assert torch.equal(ema.module.eval()(images), expected)
    if hasattr(plain, "create_evaluator"):  # timm 1.0.31
        assert type(task.create_evaluator()) is type(plain.create_evaluator())


def test_the_wrapped_criterion_does_the_same_where_timm_has_no_tasks():
    by_task = _task(BalancedStrength(2.0, fade=0))
    _train(by_task, 4)
    task = _task()
    purify = PurifyRegularizer.for_model(task.get_trainable_module(), _sampler(), strength=BalancedStrength(2.0, fade=0))
    task.criterion = purify.criterion(nn.CrossEntropyLoss())
    _train(task, 4)
    assert equal_states(state_of(task.get_trainable_module()), state_of(by_task.get_trainable_module()))


def test_the_last_call_comes_after_training():
    task = PurifyTask(ClassificationTask(_model(), nn.CrossEntropyLoss()), _sampler())
    _train(task)
    model = task.get_trainable_module()
    before = state_of(model)
    report = task.purify.erase([(torch.rand(24, 3, 32, 32), torch.arange(24) % 4)])
    assert report.refitted == 24
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["fc.weight", "fc.bias"]
