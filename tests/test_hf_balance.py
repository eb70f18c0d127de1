"""group_sampler with `balance`: groups of a Hugging Face data set compared at equal class shares."""

from collections import Counter

import numpy as np
import pytest

from wdpurify.exceptions import AuxiliaryDataWarning

datasets = pytest.importorskip("datasets")
from datasets import ClassLabel, Dataset, Features, Image, Value  # noqa: E402
from hf_faces import draw, stream  # noqa: E402

from wdpurify.integrations import _columns  # noqa: E402
from wdpurify.integrations.hf_datasets import group_sampler  # noqa: E402

datasets.disable_progress_bars()


def _confounded(rows=240):
    """Groups and classes that go together in nine rows of ten; the row's number is in every pixel."""
    classes = [row % 2 for row in range(rows)]
    groups = [(row % 2 + (row % 20 < 2)) % 2 for row in range(rows)]
    content = {"image": [np.full((2, 2, 3), row, np.uint8) for row in range(rows)], "label": classes, "site": groups}
    features = Features({"image": Image(), "label": ClassLabel(names=["sick", "well"]), "site": ClassLabel(names=["x", "y"])})
    return Dataset.from_dict(content, features=features), [*zip(groups, classes, strict=True)]


@pytest.mark.parametrize("streaming", [False, True])
def test_groups_are_compared_at_equal_class_shares(streaming, tmp_path):
    dataset, cells = _confounded()
    source = stream(tmp_path, dataset) if streaming else dataset
    sampler = group_sampler(source, group="site", balance="label", batch_size=8, **({"buffer_size": 80} if streaming else {}))
    drawn = [cells[row] for rows in draw(sampler, 30) for row in rows]
    assert Counter(drawn) == dict.fromkeys(set(cells), 60)
    again = group_sampler(source, group="site", balance="label", batch_size=8, **({"buffer_size": 80} if streaming else {}))
    again.load_state_dict(sampler.state_dict())
    assert draw(again, 3) == draw(sampler, 3)
    sampler.close()
    again.close()


def test_stretches_of_one_group_or_class_are_read_on(tmp_path):
    dataset, _ = _confounded(82)
    by_group = dataset.select(sorted(range(82), key=dataset["site"].__getitem__))
    sampler = group_sampler(stream(tmp_path, by_group), group="site", balance="label", batch_size=8, buffer_size=10)
    assert len(draw(sampler, 30)) == 30
    sampler.close()


def test_a_row_without_a_class_is_named():
    dataset, _ = _confounded(40)
    unknown = dataset.map(lambda row, number: {"label": -1 if number == 3 else row["label"]}, with_indices=True)
    with pytest.raises(ValueError, match="`balance` column 'label' has no class in row 3"):
        group_sampler(unknown, group="site", balance="label", batch_size=8)


def test_minus_one_is_a_class_where_the_column_is_of_plain_numbers():
    dataset, cells = _confounded()
    plain = dataset.remove_columns("label").add_column("smiling", [2 * kind - 1 for _, kind in cells])
    sampler = group_sampler(plain, group="site", balance="smiling", batch_size=8)
    assert Counter(cells[row] for rows in draw(sampler, 5) for row in rows) == dict.fromkeys(set(cells), 10)


def test_a_class_column_that_goes_with_the_groups_is_named():
    dataset, _ = _confounded()
    with pytest.warns(AuxiliaryDataWarning, match=r"Cramér's V 0\.\d+.*`balance='label'`"):
        group_sampler(dataset, group="site", batch_size=8)
    with pytest.raises(ValueError, match="`balance` must be columns of `dataset`"):
        group_sampler(dataset, group="site", balance="ward", batch_size=8)


def test_classes_that_are_plain_integers_are_compared_with_the_groups_too(monkeypatch):
    dataset, _ = _confounded()
    plain = dataset.cast_column("label", Value("int64"))
    with pytest.warns(AuxiliaryDataWarning, match="Set `balance='label'`"):
        group_sampler(plain, group="site", batch_size=8)
    numbered = Dataset.from_dict({"image": [0.0] * 1200, "label": range(1200), "site": [0, 1] * 600})
    monkeypatch.setattr(_columns, "warn_if_confounded", lambda *_: pytest.fail("row numbers are no classes"))
    group_sampler(numbered, group="site", batch_size=8)
