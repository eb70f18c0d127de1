"""Files of states: a kill while one is written leaves the former one, whole, or none."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from wdpurify.integrations._files import save_whole


@pytest.mark.parametrize("former", [None, {"step": torch.tensor(1)}], ids=["absent", "there before"])
@pytest.mark.parametrize("when", ["write", "fsync"])
def test_a_kill_while_a_state_is_written_leaves_what_was_there(when, former, tmp_path):
    path = tmp_path / "purify.pt"
    if former is not None:
        save_whole(former, path)
    code = f"""
        import os, pathlib, signal, torch
        from wdpurify.integrations import _files
        def die(*_): os.kill(os.getpid(), signal.SIGKILL)
        def half(state, file):
            file.write(b"half of it"); file.flush(); die()
        if {when!r} == "write": torch.save = half
        else: os.fsync = die
        _files.save_whole({{"step": torch.tensor(2)}}, pathlib.Path({str(path)!r}))
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == -9
    assert path.exists() == (former is not None)
    if former is not None:
        assert torch.load(path, weights_only=True) == former
    save_whole({"step": torch.tensor(3)}, path)  # what a killed one left is no hindrance
    assert torch.load(path, weights_only=True) == {"step": torch.tensor(3)}
    assert [file.name for file in tmp_path.iterdir()] == ["purify.pt"]
