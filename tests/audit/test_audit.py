"""The label audit where the truth is known: what is irrelevant, what is the task itself, and what is not in the images."""

import io
import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("sklearn")
from audit_rows import FAST, auxiliary_rows, small_net, striped_rows
from rich.console import Console

from wdpurify.audit import audit, leakage
from wdpurify.audit._association import associate
from wdpurify.audit._verdict import judge


@pytest.fixture(scope="module")
def auxiliary():
    return auxiliary_rows()


@pytest.fixture(scope="module")
def judged(auxiliary):
    images, stripes, _ = striped_rows(160, 3, bias=0.9)
    other, labels, _ = striped_rows(300, 4)
    columns = ["stripes", "dice", "tint"]
    options = FAST | {"repeats": 4, "margin": 0.2}  # a net this small differs by some ten points between trainings
    return audit(small_net(), (images, stripes), auxiliary, columns, evaluation=(other, labels), **options)


def test_the_nuisance_is_for_use_the_task_itself_is_not_and_dice_are_doubtful(judged):
    verdicts = {entry.column.name: entry.verdict for entry in judged.columns}
    assert verdicts == {"tint": "use", "dice": "doubtful", "stripes": "do not use"}
    assert [entry.column.name for entry in judged.columns] == ["tint", "dice", "stripes"]
    assert "nothing to forget" in judged["dice"].reason
    assert judged["stripes"].transfer.low > 0 > judged["tint"].transfer.low
    assert judged["stripes"].transfer.carried > 0.35 > judged["tint"].transfer.carried + 0.2  # of at most 0.5
    assert "by itself" in judged["stripes"].reason
    assert judged["tint"].leakage.p_value < 0.05 < judged["dice"].leakage.p_value
    assert judged["tint"].association.cramers_v > 0.6
    assert not judged["tint"].association.known
    with pytest.raises(KeyError, match="hat"):
        judged["hat"]


def test_without_separate_data_a_label_that_goes_with_the_task_is_at_best_doubtful(auxiliary):
    images, stripes, tint = striped_rows(160, 3, bias=0.9)
    found = audit(small_net(), (images, {"label": stripes, "tint": tint}), auxiliary, ["tint"], **FAST)
    assert found["tint"].verdict == "doubtful"
    assert "give `evaluation` data" in found["tint"].reason
    assert "can look relevant" in str(found)
    assert found["tint"].association.known
    unbiased = striped_rows(160, 3)
    found = audit(small_net(), unbiased[:2], auxiliary, ["tint", "stripes"], **FAST)
    assert "goes with the task label" not in found["tint"].reason
    assert found["stripes"].transfer.carried is None
    assert found["tint"].transfer.effect < found["stripes"].transfer.effect


def test_the_report_can_be_printed_written_and_plotted(judged, tmp_path, capsys):
    judged.print()
    out = capsys.readouterr().out
    assert "do not use" in out
    assert "tint: irrelevant: learning it does not help" in " ".join(out.split())
    assert judged.markdown().splitlines()[2].startswith("| tint | use |")
    read = json.loads(judged.json())
    assert read["columns"][0]["transfer"]["separate"] is True
    assert "separate data" in judged.evaluation
    assert str(judged).startswith("tint: use. Irrelevant: ")
    judged.plot(tmp_path / "audit.png")
    assert (tmp_path / "audit.png").stat().st_size > 1000


def test_nothing_of_the_users_is_changed_and_the_seed_decides(auxiliary):
    model = small_net().train()
    model[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images, stripes, _ = striped_rows(80, 3)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global state is what must stay
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    fast = FAST | {"steps": 5, "repeats": 2}
    first, again = (audit(model, (images, stripes), auxiliary, ["tint"], **fast) for _ in range(2))
    other = audit(model, (images, stripes), auxiliary, ["tint"], **fast, seed=1)
    leakage(model, *striped_rows(60, 5)[::2], permutations=2)
    assert first == again
    assert first["tint"].transfer != other["tint"].transfer
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model[0].weight.requires_grad
    assert model[3].training
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_is_told_after_each_training():
    images, stripes, tint = striped_rows(80, 3)
    told = []
    options = FAST | {"steps": 2, "repeats": 2, "permutations": 2}
    audit(
        small_net(),
        (images, stripes),
        (images, {"tint": tint}),
        ["tint"],
        progress=lambda *place: told.append(place),
        **options,
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_verdicts_follow_the_intervals(judged):
    leak, association = judged["tint"].leakage, judged["tint"].association
    within = type(judged["tint"].transfer)(0.5, 0.5, 0.0, -0.02, 0.02, 0.9, True, False)
    free = associate(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), list("ab"), list("cd"), known=False)
    assert judge(within, leak, free, 0.05)[0] == "use"
    relevant = replace(within, separate=True, carried=0.1, carried_low=0.02, carried_high=0.18)
    verdict, reason = judge(relevant, leak, free, 0.05)
    assert (verdict, "10.0 points (2.0 to 18.0) above chance" in reason) == ("do not use", True)
    assert judge(replace(relevant, carried_low=-0.01), leak, free, 0.05)[0] == "use"
    assert judge(replace(relevant, carried=0.04), leak, free, 0.05)[0] == "use"
    assert judge(within, leak, free, 0.01)[0] == "doubtful"
    assert judge(within, leak, association, 0.05)[0] == "doubtful"
    verdict, reason = judge(within, leak, association, 0.05, own_rows=True)
    assert (verdict, "purify with `balance`" in reason) == ("doubtful", True)
    verdict, reason = judge(replace(within, separate=True), leak, association, 0.05, own_rows=True)
    assert (verdict, "balance=classes" in reason) == ("use, with balance", True)
    assert judge(replace(within, separate=True), leak, free, 0.05, own_rows=True)[0] == "use"


def test_the_tasks_own_rows_need_no_other_data():
    images, stripes, tint = striped_rows(160, 3, bias=0.9)
    other, labels, _ = striped_rows(300, 4)
    task = (images, {"label": stripes, "tint": tint})
    found = audit(small_net(), task, None, ["tint"], evaluation=(other, labels), **FAST | {"margin": 0.5})
    assert found["tint"].association.known
    assert found["tint"].verdict == "use, with balance"
    assert found.settings["auxiliary rows"] == found.settings["task rows"] == 160


HOSTILE = "$x_{$ [red]|<script>\x1b[31m`*\nnext" + "n" * 10_000


def test_names_and_values_are_shown_harmlessly_everywhere(tmp_path):
    images = torch.rand(60, 3, 8, 8)
    labels = [0, 1] * 30
    groups = [(HOSTILE, "\x1b]0;title\x07b\n|")[row % 2] for row in range(60)]
    found = audit(small_net(), (images, labels), (images, {HOSTILE: groups}), (HOSTILE,), repeats=2, steps=2, permutations=2)
    file = io.StringIO()
    found.print(Console(file=file, width=100, force_terminal=False))
    for text in (file.getvalue(), str(found), found.markdown()):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert len(text) < 10_000
    table = [line for line in found.markdown().splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert all(len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", table[0])) for line in table)
    assert not re.search(r"(?<!\\)[<$`]", "".join(table[2:]))
    found.plot(tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width < 3000
    assert json.loads(found.json())["columns"][0]["column"]["name"] == HOSTILE
