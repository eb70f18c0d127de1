"""The README and the method card: their code runs, their commands and links exist."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    ROOT / "CONTRIBUTING.md",
]


def _blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 128), nn.BatchNorm1d(128), nn.ReLU())
        self.head = nn.Linear(128, 4)

    def forward(self, images):
        return self.head(self.features(images))


def _users_loop():
    """What a reader of the pages already has."""
    model = Net()
    hair = [("black", "blond", "brown")[row % 3] for row in range(200)]
    return {
        "images": torch.rand(60, 3, 8, 8),
        "labels": torch.arange(60) % 4,
        "other_images": torch.rand(60, 3, 8, 8),
        "other_labels": torch.arange(60) % 4,
        "hair": hair,
        "smiling": [row % 2 == 0 for row in range(200)],
        "plain_model": model,
        "purified_model": model,
        "held_out_images": torch.rand(200, 3, 8, 8),
        "torch": torch,
        "model": model,
        "loader": [(torch.rand(16, 3, 8, 8), torch.randint(4, (16,))) for _ in range(4)],
        "criterion": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "aux_images": torch.rand(200, 3, 8, 8),
        "aux_labels": hair,
    }


def _shorten_the_audit(monkeypatch):
    """Fewer steps and trainings by default: what the page shows is that its calls are right."""
    from wdpurify.audit import audit

    monkeypatch.setitem(audit.__kwdefaults__, "steps", 3)
    monkeypatch.setitem(audit.__kwdefaults__, "repeats", 2)


def test_the_readmes_snippet_runs_when_pasted_and_prints_what_stands_below_it(capsys):
    text = (ROOT / "README.md").read_text()
    (snippet,) = _blocks(ROOT / "README.md")
    (shown,) = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    figures = re.compile(r"[\d.]+%")
    assert figures.sub("", printed) == figures.sub("", shown)
    pairs = zip(figures.findall(printed), figures.findall(shown), strict=True)
    assert all(abs(float(one[:-1]) - float(other[:-1])) < 3 for one, other in pairs)  # other machines round differently


def _without_figures(text):
    """The words of a printed table; other machines round its figures differently."""
    return re.sub(r"\s+", " ", re.sub(r"[\d.]+", "", text)).strip()


@pytest.mark.filterwarnings("ignore:.*which are cut into ranges")  # as the page on tables says
@pytest.mark.parametrize("path", PAGES[1:], ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_run_one_after_another(path, monkeypatch, capsys):
    if path.stem == "audit":
        pytest.importorskip("sklearn")
        _shorten_the_audit(monkeypatch)
    scope = _users_loop()
    before = [parameter.clone() for parameter in scope["model"].parameters()]
    for block in _blocks(path):
        exec(compile(block, str(path), "exec"), scope)
    shown = re.findall(r"```text\n(.*?)```", path.read_text(), flags=re.DOTALL)
    printed = _without_figures(capsys.readouterr().out)
    assert [block for block in shown if _without_figures(block) not in printed] == []
    changed = any(not torch.equal(old, new) for old, new in zip(before, scope["model"].parameters(), strict=True))
    assert changed == (path == ROOT / "docs" / "after-training.md")  # the other pages only name things


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_scripts_that_are_named_exist(path):
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    scripts = re.findall(r"(?:python|launch) (benchmarks/\w+\.py)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    assert [script for script in scripts if not (ROOT / script).exists()] == []


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {target for path in PAGES for target in re.findall(r"\bmake ([\w-]+)`?", path.read_text())} & {
        "demo",
        "test",
        "test-audit",
        "test-benchmarks",
        "test-slow",
        "check",
        "bench",
    }
    assert {"demo", "test"} <= named <= targets
