"""What tests of the audit with data sets share."""

import pytest


@pytest.fixture
def quiet_datasets(tmp_path, monkeypatch):
    """Hugging Face data sets with a cache of the test's own and without progress bars."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
