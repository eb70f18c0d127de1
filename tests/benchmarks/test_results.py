"""The results store: a place that cannot be written to is refused before anything runs."""

import pytest
from purifybench.results import ResultsStore


def test_a_store_that_cannot_be_written_is_refused_at_once_and_one_that_can_makes_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "results.jsonl"):
        with pytest.raises(ValueError, match="results cannot be written to"):
            ResultsStore(path)
    store = ResultsStore(tmp_path / "new" / "results.jsonl")
    assert not (tmp_path / "new").exists()
    assert store.records() == []
    store.add({"key": {"name": "\ud800"}})
    assert store.found([{"name": "\ud800"}]) == [{"key": {"name": "\ud800"}}]
