"""What may import what: the core needs torch and the standard library alone and does nothing at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def _top_levels(path):
    return {name.partition(".")[0] for name in _imports(path)}


@pytest.mark.parametrize("path", sorted((ROOT / "wdpurify").glob("*.py")), ids=lambda path: path.name)
def test_core_imports_torch_and_the_standard_library_alone(path):
    foreign = _top_levels(path) - set(sys.stdlib_module_names) - {"torch", "typing_extensions"}
    assert not foreign


def test_importing_the_core_brings_no_integration_and_leaves_global_state_alone():
    script = """
import random, sys, warnings
import torch
before = torch.get_rng_state(), random.getstate(), list(warnings.filters), set(sys.modules)
import wdpurify
assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate() and before[2] == list(warnings.filters)
new = {name.partition(".")[0] for name in set(sys.modules) - before[3]}
assert not new & {"timm", "accelerate", "datasets", "transformers", "lightning", "numpy", "torchvision"}, new
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_nobody_imports_the_integrations_by_their_folder_name():
    python = [path for folder in ("wdpurify", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert len(python) > 10
    assert [str(path) for path in python if "integrations" in _top_levels(path)] == []


def test_no_file_is_named_like_a_library_it_could_hide():
    libraries = {"accelerate", "datasets", "timm", "transformers", "lightning", "torch", "torchvision"}
    names = {path.stem for folder in ("integrations", "benchmarks") for path in (ROOT / folder).glob("*")}
    assert not names & libraries
