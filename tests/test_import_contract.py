"""What may import what: the core needs torch and the standard library alone and does nothing at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = sorted(
    path for path in (ROOT / "wdpurify").rglob("*.py") if not {"audit", "integrations"} & set(path.relative_to(ROOT).parts)
)


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def _top_levels(path):
    return {name.partition(".")[0] for name in _imports(path)}


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_core_imports_torch_and_the_standard_library_alone(path):
    foreign = _top_levels(path) - set(sys.stdlib_module_names) - {"torch", "typing_extensions", "wdpurify"}
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


LIBRARY = sorted([*(ROOT / "wdpurify").rglob("*.py"), *(ROOT / "integrations").rglob("*.py")])


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_reads_and_writes_nothing_that_runs_code(path):
    assert not _top_levels(path) & {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "subprocess", "socket"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            named = {keyword.arg: keyword.value for keyword in node.keywords}
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "__import__", "os.system"), ast.unparse(node)
            assert "trust_remote_code" not in named, ast.unparse(node)
            if called == "torch.load":
                assert ast.unparse(named["weights_only"]) == "True", ast.unparse(node)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_read_and_written_with_its_encoding_named(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
        if called in ("read_text", "write_text", "open", "fdopen", "TextIOWrapper", "NamedTemporaryFile"):
            options = {keyword.arg for keyword in node.keywords}
            binary = any(isinstance(each, ast.Constant) and "b" in str(each.value) for each in node.args[:2])
            assert binary or "encoding" in options, ast.unparse(node)


def test_no_file_is_named_like_a_library_it_could_hide():
    libraries = {"accelerate", "datasets", "timm", "transformers", "lightning", "torch", "torchvision"}
    names = {path.stem for folder in ("integrations", "benchmarks") for path in (ROOT / folder).glob("*")}
    assert not names & libraries


def _module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _own_imports(path):
    """Modules of the core that a module imports, whether by an absolute or by a relative name."""
    package = _module_name(path) if path.name == "__init__.py" else _module_name(path).rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] + "." if node.level else ""
            found.add((base + (node.module or "")).rstrip("."))
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.startswith("wdpurify.")}


def test_no_module_is_a_hub_and_none_is_long():
    inner = [path for path in CORE if path.name != "__init__.py"]
    crowded = {path.name: len(_own_imports(path)) for path in inner if len(_own_imports(path)) > 10}
    assert crowded == {}
    lengths = {path.name: _lines_of_code(path) for path in CORE}
    assert {name: length for name, length in lengths.items() if length > 210} == {}


def _lines_of_code(path):
    """Lines without blank ones, comments and docstrings."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)]
    prose = {line for node in first for line in range(node.lineno, node.end_lineno + 1)}
    lines = enumerate(path.read_text().splitlines(), 1)
    return sum(1 for number, line in lines if number not in prose and line.strip() and not line.strip().startswith("#"))


def test_imports_of_the_core_run_one_way():
    imports = {_module_name(path): _own_imports(path) - {"wdpurify"} for path in CORE}
    imports.pop("wdpurify")
    done = set()
    while ready := {name for name, needed in imports.items() if name not in done and needed <= done}:
        done |= ready
    assert set(imports) - done == set()
