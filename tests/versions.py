"""Tests that only newer versions of torch can run."""

import pytest
import torch
from packaging.version import Version


def since(version, why):
    """Skip a test under an older torch; ``why`` says what that torch lacks."""
    return pytest.mark.skipif(Version(torch.__version__) < Version(version), reason=f"before torch {version} {why}")


sharded_on_cpus = since("2.8", "no sharded model runs on CPUs with gloo")
names_kept_by_export = since("2.8", "export names parameters by the hooks around them")
