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


@pytest.mark.parametrize("line", ["3", "[]", "{}", '{"key": "plain"}', "null"])
def test_a_line_that_is_no_record_is_refused_by_its_number_and_a_cut_one_is_passed_over(line, tmp_path):
    path = tmp_path / "results.jsonl"
    store = ResultsStore(path)
    store.add({"key": {"seed": 1}})
    path.write_text(path.read_text(encoding="utf-8") + '{"key": {"seed"', encoding="utf-8")  # killed
    store.add({"key": {"seed": 2}})
    assert [record["key"]["seed"] for record in store.records()] == [1, 2]
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 4 of .*results\.jsonl is no record of a run"):
        store.records()
