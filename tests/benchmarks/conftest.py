"""What tests of the benchmarks share: a cache of drawn faces, and a file of small pictures."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def faces_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for drawn faces, the same for all tests; a set of faces is found there by all that it depends on."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    return shared / "faces-cache"


@pytest.fixture(scope="session")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parquet file of small pictures with a class and a nuisance."""
    written: Path = pytest.importorskip("coloured_pictures").write_parquet(tmp_path_factory.mktemp("pictures"))
    return written
