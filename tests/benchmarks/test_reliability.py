"""Trainings that are killed by SIGKILL and go on end as if nothing had happened; and one that does not is found out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the trainings are forked")


def _run(*arguments):
    command = [sys.executable, "-W", "ignore", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_trainings_that_are_killed_end_with_the_very_weights(tmp_path):
    done = _run("benchmarks/reliability.py", "--kills", "6", "--forms", "explicit", "accumulation", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    for form in ("explicit", "accumulation"):
        mine = [record for record in records if record["key"]["form"] == form]
        assert sum(record["kills"] for record in mine) >= 6
        assert all(record["equal"] for record in mine)
    assert "| accumulation |" in (tmp_path / "reliability.md").read_text()


def test_a_training_that_forgets_the_regularizer_is_found_out(tmp_path):
    script = """
import sys, time
from pathlib import Path
sys.path.insert(0, "benchmarks")
import torch
torch.set_num_threads(1)
from purifybench.killed import forms, harness

def forgetful(folder):
    loop = forms.Loop(forms.sampler(), tapped=False)
    loop.purify.load_state_dict = lambda state: None
    loss = loop.loss
    loop.loss = lambda images, labels: time.sleep(0.05) or loss(images, labels)  # so that kills come between steps
    forms.train(folder, loop)

def at_the_first_save(child, seconds):
    while not Path(sys.argv[1], "run", "killed", "state.pt").exists():
        time.sleep(0.005)
    return False

forms.FORMS["forgetful"] = forgetful
harness._ended_within = at_the_first_save
end = harness.kill_and_go_on("forgetful", Path(sys.argv[1], "run"), kills=1, seed=0)
print(end.kills, end.equal)
"""
    done = _run("-c", script, str(tmp_path))
    kills, equal = done.stdout.split()
    assert int(kills) == 1
    assert equal == "False"
