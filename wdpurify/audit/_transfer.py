"""Measures how learning a label first changes the task's accuracy, as the paper does (Li et al. 2021, Sec. II)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from wdpurify._torch import derive_seed, private_randomness

from ._association import independence_weights
from ._extractor import Extractor
from ._inputs import Inputs
from ._probe import balanced_weights, predicted, predicted_across, recall_error


@dataclass(frozen=True)
class Rows:
    """Prepared rows with task classes ``(rows,)``, int64."""

    inputs: Inputs
    labels: Tensor


@dataclass(frozen=True)
class Plan:
    """How extractors are trained.

    Attributes:
        repeats: trainings on the label, and as many on shuffled values.
        steps: optimiser steps of each.
        batch_size: rows per step.
        lr: highest learning rate of AdamW; it rises and falls (one cycle).
        seed: of everything drawn.
        trained: called after each training.
    """

    repeats: int
    steps: int
    batch_size: int
    lr: float
    seed: int
    trained: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Transfer:
    """Balanced accuracy on the task, in [0, 1], of a linear probe of features that learned the label.

    Attributes:
        accuracy: with the label.
        control: with its values shuffled among the rows, otherwise alike.
        effect: their difference; negative or null: the label is irrelevant, positive: it is relevant.
        low, high: 95 % interval of ``effect`` over repeats and evaluation rows.
        carried: balanced accuracy on the task, above chance, of a probe that knows the predicted label alone; learned on
            the task rows and judged on separate data: what of the label's link with the task holds elsewhere. None without
            separate data.
        carried_low, carried_high: its 95 % interval.
        label_accuracy: balanced accuracy on the label itself, on auxiliary rows that were not trained on.
        label_learned: the 95 % interval of ``label_accuracy`` lies above chance.
        separate: evaluated on data of another collection; otherwise across folds of the task rows, weighted so that the
            label as predicted does not go with the task label.
    """

    accuracy: float
    control: float
    effect: float
    low: float
    high: float
    label_accuracy: float
    label_learned: bool
    separate: bool
    carried: float | None = None
    carried_low: float | None = None
    carried_high: float | None = None


def transfer(
    extractor: Extractor, rows: Inputs, codes: Tensor, task: Rows, evaluation: Rows | None, plan: Plan
) -> tuple[Transfer, Tensor]:
    """Measure the transfer effect of a label.

    Args:
        extractor: where every training starts; it is not changed.
        rows, codes: auxiliary rows and the numbers of their values, from 0 on.
        task: rows for the probe.
        evaluation: rows to judge the probe by; None takes folds of ``task``.
        plan: how to train.

    Returns:
        The result, and the label's value as predicted on the task rows, int64 (the most frequent prediction of the repeats).
    """
    values = int(codes.max()) + 1
    judged = evaluation or task
    base = balanced_weights(judged.labels)
    gains = []
    hits = []
    misses = []
    label_hits = []
    votes = torch.zeros(len(task.labels), values)
    carries: list[Tensor] = []
    for repeat in range(plan.repeats):
        seed = derive_seed(plan.seed, "transfer", repeat)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(codes), generator=generator)
        trained = order[: len(order) * 4 // 5]
        held = order[len(order) * 4 // 5 :]
        shuffled = codes[trained][torch.randperm(len(trained), generator=generator)]
        learned, head = trained_on(extractor, rows.part(trained), codes[trained], values, plan, seed)
        placebo, _ = trained_on(extractor, rows.part(trained), shuffled, values, plan, seed)
        right = head(learned.all_features(rows.part(held))).argmax(1) == codes[held]
        label_hits.append((right, codes[held]))
        features = [learned.all_features(task.inputs), placebo.all_features(task.inputs)]
        guessed = head(features[0]).argmax(1)
        votes += F.one_hot(guessed, values)
        if evaluation is None:
            weights = independence_weights(task.labels, guessed)
            found = [predicted_across(own, task.labels, weights, seed=plan.seed) for own in features]
        else:
            weights = base
            others = [own.all_features(evaluation.inputs) for own in (learned, placebo)]
            found = [predicted(own, task.labels, other) for own, other in zip(features, others, strict=True)]
            known = [F.one_hot(own, values).float() for own in (guessed, head(others[0]).argmax(1))]
            hit = base * (predicted(known[0], task.labels, known[1]) == judged.labels)
            carries.append(hit - 1 / len(judged.labels.unique()))
        hit, missed = (weights * (own == judged.labels) for own in found)
        hits.append(hit.mean())
        misses.append(missed.mean())
        gains.append(hit - missed)
    effect, low, high = crossed_interval(torch.stack(gains))
    accuracy, error = _label_accuracy(label_hits)
    result = Transfer(
        float(torch.stack(hits).mean()),
        float(torch.stack(misses).mean()),
        effect,
        low,
        high,
        accuracy,
        accuracy - 1.96 * error > 1 / values,
        evaluation is not None,
        *(crossed_interval(torch.stack(carries)) if carries else (None, None, None)),
    )
    return result, votes.argmax(1)


def trained_on(
    extractor: Extractor, rows: Inputs, codes: Tensor, values: int, plan: Plan, seed: int
) -> tuple[Extractor, nn.Linear]:
    """A copy of the extractor that learned labels, and its linear head, on the CPU."""
    with private_randomness(extractor.device, seed):
        copied = extractor.copy()
        copied.model.train()
        for parameter in copied.model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        batches = _batches(len(codes), plan, seed)
        with torch.no_grad():
            width = copied.features(rows[batches[0]]).shape[1]
        head = nn.Linear(width, values).to(copied.device)
        learning = [*copied.model.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(learning, plan.lr)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.lr, total_steps=plan.steps)
        with torch.enable_grad():
            for places in batches:
                loss = F.cross_entropy(head(copied.features(rows[places])), codes[places].to(copied.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
        plan.trained()
        return copied, head.cpu().requires_grad_(False)


def crossed_interval(gains: Tensor) -> tuple[float, float, float]:
    """Mean and 95 % interval of gains per repeat and row, ``(repeats, rows)``, where both repeats and rows are samples.

    The variances of the means over repeats and over rows are added, which is exact for additive effects and wide otherwise;
    degrees of freedom after Satterthwaite.
    """
    repeats, rows = gains.shape
    by_repeat = gains.mean(1).var() / repeats if repeats > 1 else gains.new_zeros(())
    by_row = gains.mean(0).var() / rows
    variance = float(by_repeat + by_row)
    mean = float(gains.mean())
    if variance == 0:
        return mean, mean, mean
    freedom = variance**2 / float(by_repeat**2 / max(1, repeats - 1) + by_row**2 / (rows - 1))
    half = float(stats.t.ppf(0.975, freedom)) * variance**0.5
    return mean, mean - half, mean + half


def _batches(count: int, plan: Plan, seed: int) -> list[Tensor]:
    """Yield the rows of every step: one permutation per epoch, without its incomplete batch."""
    generator = torch.Generator().manual_seed(seed)
    size = min(plan.batch_size, count)
    found: list[Tensor] = []
    while len(found) < plan.steps:
        order = torch.randperm(count, generator=generator)
        found += order[: count // size * size].split(size)
    return found[: plan.steps]


def _label_accuracy(found: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Return the mean balanced accuracy over repeats, and the standard error of a single one."""
    means = [float((balanced_weights(labels) * right).mean()) for right, labels in found]
    return sum(means) / len(means), recall_error(*found[0])
