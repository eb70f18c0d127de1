"""What every test gets: a fixed seed, one thread, and the Hypothesis profiles `dev`, `ci` and `soak`."""

import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("dev", max_examples=30, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
hypothesis.settings.register_profile("soak", max_examples=1_000, stateful_step_count=40, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
torch.set_num_threads(1)
collect_ignore_glob = ["*conftest.py"]  # no tests in them; as modules to look for examples in, two of one name clash


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start ranks run on one worker of pytest-xdist, and so share the process that ranks are forked from.

    pytest-xdist 3.8 misses groups under pytest 9.2: then each worker starts such a process, which costs seconds.
    """
    for item in items:
        code = getattr(getattr(item, "function", None), "__code__", None)
        if code is not None and {"run_on_ranks", "ended_on_ranks"} & set(code.co_names):
            item.add_marker(pytest.mark.xdist_group("ranks"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def streamed(tmp_path: Path) -> Any:
    """Faces as a stream of Hugging Face's `datasets`."""
    faces = pytest.importorskip("hf_faces")
    return faces.stream(tmp_path, faces.faces())


@pytest.fixture(params=["map", "stream"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The same faces as a data set of each kind."""
    faces = pytest.importorskip("hf_faces")
    return faces.faces() if request.param == "map" else faces.stream(tmp_path, faces.faces())
