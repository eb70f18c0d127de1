"""What people hand to GroupSampler that holds no rows or no labels: refused when the sampler is made, with a line that runs."""

import re
from pathlib import Path

import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
from numpy.lib.recfunctions import unstructured_to_structured
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from wdpurify import GroupSampler

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor", "ignore:The PyTorch API of nested")

ROWS = 48
GROUPS = [row % 2 for row in range(ROWS)]
NUMBERS = torch.arange(ROWS * 3.0).view(ROWS, 3)


class _Stream(IterableDataset):
    def __iter__(self):
        return iter(NUMBERS)


def _frame():
    return pandas.DataFrame(NUMBERS.numpy(), columns=list("abc"), index=range(ROWS, 0, -1))


def _masked():
    return np.ma.masked_array(NUMBERS.numpy(), mask=np.zeros((ROWS, 3), dtype=bool))


#: Name: what comes as `rows`, what the message says of it.
SOURCES = {
    "records": (lambda: unstructured_to_structured(NUMBERS.numpy()), "a structured array"),
    "loader": (lambda: DataLoader(TensorDataset(NUMBERS), batch_size=4), "a DataLoader"),
    "stream": (_Stream, "a stream"),
    "iterator": (lambda: iter(NUMBERS), "cannot be indexed"),
    "frame": (_frame, "a data frame"),
    "csr": (lambda: scipy.sparse.csr_matrix(NUMBERS.numpy()), "a sparse matrix"),
    "coo array": (lambda: scipy.sparse.coo_array(NUMBERS.numpy()), "a sparse matrix"),
    "sparse tensor": (NUMBERS.to_sparse, "a sparse tensor"),
    "sparse rows": (NUMBERS.to_sparse_csr, "a sparse tensor"),
    "masked array": (_masked, "a masked array"),
}


def _written(error, **names):
    """The remedy of a message, carried out: its line behind `Give`."""
    message = str(error.value)
    assert re.fullmatch(r"(?s)[^.]*(\.\w[^.]*)*\. Give .*[^.]", message), message  # two sentences
    return eval(re.search(r"Give `(.+?)`", message)[1], {"torch": torch, "numpy": np, "GroupSampler": GroupSampler, **names})


@pytest.mark.parametrize("name", SOURCES)
def test_what_has_no_rows_by_number_is_refused_at_once_and_the_line_given_runs(name):
    make, what = SOURCES[name]
    with pytest.raises(TypeError, match=f"`rows`.*{what}") as error:
        GroupSampler(make(), GROUPS, batch_size=8)
    images = _written(error, rows=make(), columns=["a", "b", "c"])
    images = [row[0] if isinstance(row, tuple) else row for row in images]
    assert torch.equal(torch.stack([torch.as_tensor(row) for row in images]), NUMBERS)
    batch = GroupSampler(images, GROUPS, batch_size=8).next_batch()
    assert batch.images.shape == (8, 3)
    assert torch.equal(batch.images, GroupSampler(NUMBERS, GROUPS, batch_size=8).next_batch().images)


def test_numbers_of_another_byte_order_are_rows():
    given = NUMBERS.numpy().astype(">f4")
    assert torch.equal(GroupSampler(given, GROUPS, batch_size=ROWS).next_batch().images.sort(0).values, NUMBERS)


def test_ragged_tensors_are_refused_with_the_collator_that_takes_them():
    rows = torch.nested.nested_tensor([torch.ones(1 + row % 3) for row in range(ROWS)])
    with pytest.raises(TypeError, match=r"a nested tensor.*`collate_fn`") as error:
        GroupSampler(rows, GROUPS, batch_size=8)
    images = _written(error, rows=rows)
    assert len(GroupSampler(images, GROUPS, batch_size=8, collate_fn=lambda rows: rows).next_batch().images) == 8


def test_streams_of_hugging_face_are_sent_to_their_sampler():
    datasets = pytest.importorskip("datasets")
    stream = datasets.Dataset.from_dict({"x": [[1.0]] * ROWS}).to_iterable_dataset()
    with pytest.raises(TypeError, match=r"a stream.*`wdpurify.integrations.hf_datasets.group_sampler\(rows, group=...\)`"):
        GroupSampler(stream, GROUPS, batch_size=8)


def test_a_text_column_of_a_frame_is_named_among_what_to_give():
    with pytest.raises(TypeError, match=r"texts as `rows\[column\]`"):
        GroupSampler(pandas.DataFrame({"text": ["a"] * ROWS}), GROUPS, batch_size=8)


@pytest.mark.parametrize("as_rows", [list, lambda paths: [Path(path) for path in paths], np.array, pandas.Series])
def test_paths_of_pictures_are_refused_with_the_collator_that_opens_them(as_rows, tmp_path):
    paths = [str(tmp_path / f"{row}.PNG") for row in range(ROWS)]
    for row, path in enumerate(paths):
        Image.new("L", (2, 2), row).save(path)
    with pytest.raises(TypeError, match=r"`rows` holds paths of pictures.*Give `collate_fn=") as error:
        GroupSampler(as_rows(paths), GROUPS, batch_size=8)
    line = re.search(r"Give `collate_fn=(.+?)`", str(error.value))[1]
    collate_fn = eval(line, {"torch": torch, "Image": Image, "transform": lambda picture: torch.tensor(np.array(picture))})
    batch = GroupSampler(as_rows(paths), GROUPS, batch_size=8, collate_fn=collate_fn).next_batch()
    assert [GROUPS[row] for row in batch.images[:, 0, 0, 0].tolist()] == batch.groups.tolist()
    transformed = GroupSampler(as_rows(paths), GROUPS, batch_size=8, transform=lambda paths: len(paths))
    assert transformed.next_batch().images == 8


@pytest.mark.parametrize("texts", [["see a.png and b.png", "no"], ["a", "b.png"], [".png", "x"]])
def test_texts_are_no_paths(texts):
    assert len(GroupSampler(texts * 24, GROUPS, batch_size=8).next_batch().images) == 8


def test_a_text_in_place_of_rows_is_refused():
    with pytest.raises(TypeError, match=r"`rows` must hold one entry per row, got the text 'image'. Give"):
        GroupSampler("image", GROUPS[:5], batch_size=2)


# Labels.


def test_a_columns_name_is_no_column():
    frame = pandas.DataFrame({"sex": GROUPS})
    with pytest.raises(TypeError, match=r"`groups` must hold one label per row, got the text 'sex'") as error:
        GroupSampler(NUMBERS, "sex", batch_size=8)
    assert _written(error, frame=frame) == GROUPS
    with pytest.raises(TypeError, match=r"`balance` must hold one label per row, got the text 'sex'"):
        GroupSampler(NUMBERS, GROUPS, balance="sex", batch_size=8)
    with pytest.raises(TypeError, match=r"got the text 'sex'"):  # even if there are as many rows as it has letters
        GroupSampler(NUMBERS[:3], "sex", batch_size=1)


def test_masked_labels_are_refused_and_masks_that_hide_nothing_are_not():
    mask = np.arange(ROWS) < 2
    groups = np.ma.masked_array(GROUPS, mask=mask)
    with pytest.raises(ValueError, match=r"`groups` is a masked array.*2 labels") as error:
        GroupSampler(NUMBERS, groups, batch_size=8)
    assert _written(error, rows=NUMBERS.numpy(), groups=groups).rows == ROWS - 2
    with pytest.raises(ValueError, match=r"`balance` is a masked array"):
        GroupSampler(NUMBERS, GROUPS, balance=groups, batch_size=8)
    assert GroupSampler(NUMBERS, np.ma.masked_array(GROUPS), batch_size=8).n_groups == 2


class _Folder:
    """As a folder of pictures: names of classes, and the number of one for each row."""

    classes = ("cat", "dog", "cow")
    targets = tuple(row % 3 for row in range(ROWS))

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        return NUMBERS[row], self.targets[row]


def test_the_names_of_a_folders_classes_are_no_labels():
    with pytest.raises(ValueError, match=r"`groups` holds the 3 names of the classes") as error:
        GroupSampler(_Folder(), list(_Folder.classes), batch_size=8)
    groups = _written(error, rows=_Folder())
    assert GroupSampler(_Folder(), groups, batch_size=8).values == ("cat", "dog", "cow")


@pytest.mark.parametrize(
    "rows",
    [
        torch.zeros(ROWS, 3, 2, 2),
        NUMBERS,
        NUMBERS.numpy(),
        [torch.zeros(3)] * ROWS,
        TensorDataset(NUMBERS),
        [f"row {max(row, 2)}" for row in range(ROWS)],
        [Image.new("L", (2, 2))] * ROWS,
    ],
    ids=["pictures", "table", "array", "list", "data set", "texts", "PIL"],
)
@pytest.mark.parametrize("labels", [GROUPS, torch.tensor(GROUPS), np.array(["a", "b"] * 24), list("ab") * 24])
def test_swapped_arguments_are_refused(rows, labels):
    with pytest.raises(TypeError, match=r"`rows` and `groups` are swapped") as error:
        GroupSampler(labels, rows, batch_size=8)
    if not isinstance(rows, list) or not isinstance(rows[0], Image.Image):
        assert _written(error, rows=labels, groups=rows).rows == ROWS


@pytest.mark.parametrize(
    ("images", "groups"),
    [
        (torch.arange(ROWS) % 5, GROUPS),  # a number to embed per row
        (["good", "bad"] * 24, GROUPS),
        (["good", "bad"] * 24, [row // 4 for row in range(ROWS)]),
        (GROUPS, ["a", "b"] * 24),
        (["good", "bad"] * 24, [f"{row // 4}" for row in range(ROWS)]),
        (torch.arange(ROWS), [(row % 2, row % 3) for row in range(ROWS)]),
    ],
)
def test_rows_that_repeat_are_not_taken_for_labels(images, groups):
    assert GroupSampler(images, groups, batch_size=8).rows == ROWS


class _Whole(_Folder):
    """A folder whose names of classes and targets are lists."""

    classes, targets = list(_Folder.classes), list(_Folder.targets)


#: What comes as labels, what the message says of it, and the labels that its remedy gives.
LABELS = {
    "loader": (lambda: DataLoader(_Whole(), batch_size=4), "a DataLoader", _Whole.targets),
    "data set": (_Whole, "a data set", _Whole.targets),
    "sparse": (lambda: scipy.sparse.csr_matrix(np.array(GROUPS)[:, None]), "a sparse matrix", GROUPS),
}


@pytest.mark.parametrize("name", LABELS)
def test_what_has_no_label_per_row_is_refused_and_the_line_given_runs(name):
    make, what, expected = LABELS[name]
    with pytest.raises(TypeError, match=f"`groups` must hold one label per row, got {what}") as error:
        GroupSampler(NUMBERS, make(), batch_size=8)
    assert _written(error, groups=make()) == expected
    with pytest.raises(TypeError, match=f"`balance` must hold one label per row, got {what}") as error:
        GroupSampler(NUMBERS, GROUPS, balance=make(), batch_size=8)
    assert _written(error, balance=make()) == expected


@pytest.mark.parametrize("labels", [None, 1])
def test_nothing_and_a_single_value_are_no_labels(labels):
    with pytest.raises(TypeError, match=r"`groups` must hold one label per row, got a single value or nothing"):
        GroupSampler(NUMBERS, labels, batch_size=8)


def test_a_frame_as_balance_is_named_as_balance():
    with pytest.raises(ValueError, match=r"`balance` must have shape \(rows,\)"):
        GroupSampler(NUMBERS, GROUPS, balance=pandas.DataFrame({"a": GROUPS}), batch_size=8)


def test_labels_and_names_of_the_whole_are_no_labels_of_a_subset():
    subset = Subset(_Whole(), range(5, 45))
    with pytest.raises(ValueError, match=r"the 48 labels of the whole data set, and `rows` is a subset of 40 rows") as error:
        GroupSampler(subset, _Whole.targets, batch_size=8)
    assert _written(error, rows=subset, groups=_Whole.targets) == _Whole.targets[5:45]
    with pytest.raises(ValueError, match=r"`groups` holds the 3 names of the classes") as error:
        GroupSampler(subset, _Whole.classes, batch_size=8)
    assert _written(error, rows=subset)[:3] == ["cow", "cat", "dog"]


def test_a_folders_list_of_files_and_paths_of_other_files_are_refused():
    with pytest.raises(TypeError, match=r"paths of pictures with their classes.*Give the data set itself"):
        GroupSampler([(f"{row}.png", row % 3) for row in range(ROWS)], GROUPS, batch_size=8)
    with pytest.raises(TypeError, match=r"`rows` holds paths"):
        GroupSampler([Path(f"{row}.npy") for row in range(ROWS)], GROUPS, batch_size=8)


def test_an_arrow_table_is_refused_with_the_line_that_reads_it():
    table = pytest.importorskip("pyarrow").table({"a": NUMBERS[:, 0].numpy()})
    with pytest.raises(TypeError, match=r"`rows`.*an Arrow table") as error:
        GroupSampler(table, GROUPS, batch_size=8)
    assert torch.equal(_written(error, rows=table), NUMBERS[:, :1])
