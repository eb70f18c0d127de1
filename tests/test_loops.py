"""The pages of docs/loops: each diff is applied, and the script run before and after."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import free_port

FOLDER = Path(__file__).parent.parent / "docs" / "loops"
NEEDS = {
    "accelerate": "accelerate",
    "timm": "timm.task",
    "lightning": "lightning",
    "transformers": "transformers",
    "streaming": "datasets",
}
LAUNCHERS = {
    "imagenet": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"],
    "lightning": [],  # starts its second process by itself
}
#: What two processes need of a page's script.
ON_TWO = {"lightning": {'accelerator="auto"': 'accelerator="cpu"', "devices=1": 'devices=2, strategy="ddp"'}}
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # Lightning's and transformers' own
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


def _scripts(page):
    """The script before and after, from the page's one diff."""
    (block,) = re.findall(r"```diff\n(.*?)```", (FOLDER / f"{page}.md").read_text(), flags=re.DOTALL)
    lines = block.splitlines()
    assert all(line[:1] in (" ", "+", "-") for line in lines), [line for line in lines if line[:1] not in (" ", "+", "-")]
    before, after = ("\n".join(line[1:] for line in lines if line[0] in kept) + "\n" for kept in (" -", " +"))
    return before, after


def _with_strength(script, strength):
    """The script with a strength given where the sampler is."""
    changed, count = re.subn(r"\bsampler\)", f"sampler, strength={strength})", script)
    assert count == 1
    return changed


def _losses(printed):
    return re.findall(r"loss\W+([\d.]+)", printed)


def _run(script, folder, capsys):
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(script)
    here = os.getcwd()
    os.chdir(folder)
    try:
        runpy.run_path("main.py", run_name="__main__")
    finally:
        os.chdir(here)
    return _losses(capsys.readouterr().out), torch.load(folder / "model.pt", weights_only=True)


def _be_the_only_rank(monkeypatch):
    """What `torchrun --nproc_per_node 1` says to a script."""
    said = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in said.items():
        monkeypatch.setenv(name, str(value))


def _launch(page, script, folder):
    folder.mkdir(exist_ok=True)
    for one, two in ON_TWO.get(page, {}).items():
        assert one in script
        script = script.replace(one, two)
    (folder / "main.py").write_text(script)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error:::__main__,error:::wdpurify"}
    port = ["--main_process_port", str(free_port())] if page == "accelerate" else []
    command = [sys.executable, *LAUNCHERS[page], *port, "main.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    warned = [line for line in done.stderr.splitlines() if "Warning" in line and "does not have many workers" not in line]
    assert warned == []
    return _losses(done.stdout), torch.load(folder / "model.pt", weights_only=True)


def _tensors(value, name=""):
    if isinstance(value, torch.Tensor):
        return {name: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {key: tensor for inner, part in pairs for key, tensor in _tensors(part, f"{name}.{inner}").items()}


def _faults(plain, watched, purified):
    """What is wrong with the outcomes of the three runs."""
    before, same, changed = (_tensors(saved) for _, saved in (plain, watched, purified))
    checks = {
        "strength 0 changes what is printed": plain[0] == watched[0],
        "the plugin changes the keys": before.keys() == same.keys() == changed.keys(),
        "strength 0 changes the weights": all(torch.equal(before[name], same[name]) for name in before),
        "the term does not arrive": any(not torch.equal(before[name], changed[name]) for name in before),
        "the weights are not finite": all(tensor.isfinite().all() for tensor in changed.values()),
    }
    return [fault for fault, fine in checks.items() if not fine]


PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem not in ("README", "recipes"))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_changes_what_is_trained_and_with_strength_zero_nothing(page, tmp_path, capsys, monkeypatch):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    if page == "imagenet":
        _be_the_only_rank(monkeypatch)
    before, after = _scripts(page)
    torch._dynamo.reset()
    runs = [before, _with_strength(after, 0.0), after]
    assert _faults(*(_run(script, tmp_path / str(number), capsys) for number, script in enumerate(runs))) == []


@pytest.mark.slow
@pytest.mark.parametrize("page", LAUNCHERS)
def test_a_page_does_the_same_on_two_processes(page, tmp_path):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    before, after = _scripts(page)
    runs = [before, _with_strength(after, 0.0), after]
    assert _faults(*(_launch(page, script, tmp_path / str(number)) for number, script in enumerate(runs))) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_adds_two_lines_besides_imports_and_the_sampler(page):
    before, after = _scripts(page)
    added = set(after.splitlines()) - set(before.splitlines())
    own = [line for line in added if line.strip() and not re.match(r"\s*(from|import|aux_\w+(\[.*\])? \*?=|sampler =|#)", line)]
    assert len(own) <= 3, own
