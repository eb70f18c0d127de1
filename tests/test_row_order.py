"""Rows and labels of pandas are read by position: a shuffled index changes nothing in what a sampler draws and weighs."""

import pytest
import torch
from shuffled_rows import INDICES, LABELS, ROWS, marked, read

from wdpurify import GroupSampler, balanced_weights

pandas = pytest.importorskip("pandas")


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_a_sampler_gives_each_row_its_own_label(index):
    sampler = GroupSampler(
        pandas.Series(list(marked(LABELS)), index=index),
        pandas.Series(LABELS, index=index),
        balance=pandas.Series([row % 2 for row in range(ROWS)], index=index),
        batch_size=ROWS,
    )
    batch = sampler.next_batch()
    assert [sampler.values[group] for group in batch.groups.tolist()] == read(batch.images)


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_weights_are_those_of_the_rows(index):
    classes = [row % 2 for row in range(ROWS)]
    found = balanced_weights(pandas.Series(LABELS, index=index), pandas.Series(classes, index=index))
    assert torch.equal(found, balanced_weights(LABELS, classes))


# Collators and transforms that reorder or drop rows.

RAGGED = [torch.full((1 + row % 5,), 1.0 + row) for row in range(ROWS)]
TABLE = torch.arange(ROWS * 3.0).view(ROWS, 3)


def _padded(rows):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _sorted(rows):
    return _padded(sorted(rows, key=len, reverse=True))


def _as_dict(rows):
    return {"input_ids": _sorted(rows), "position": torch.ones(len(rows))}


def _shuffled(batch):
    return batch[torch.randperm(len(batch))]


TEXTS = ["word " * (row % 5) + str(row) for row in range(ROWS)]


def _texts(rows):
    return sorted(rows, key=len)


REORDERING = {
    "texts sorted by length": (TEXTS, {"collate_fn": _texts}),
    "texts sorted by length in a dict": (
        TEXTS,
        {"collate_fn": lambda rows: {"text": _texts(rows), "language": ["en"] * len(rows)}},
    ),
    "sorted by length": (RAGGED, {"collate_fn": _sorted}),
    "sorted by length in a dict": (RAGGED, {"collate_fn": _as_dict}),
    "shuffled": (TABLE, {"transform": _shuffled}),
    "shuffled, with missing numbers": (TABLE, {"transform": lambda batch: _shuffled(torch.where(batch > 9, batch, torch.nan))}),
    "shuffled complex numbers": (TABLE, {"transform": lambda batch: _shuffled(torch.fft.fft(batch))}),
    "sorted by value": (TABLE, {"transform": lambda batch: batch[batch[:, 0].argsort()]}),
    "reversed in one of two": (TABLE, {"transform": lambda batch: [batch.sort(0).values, torch.ones(len(batch))]}),
    "a collator, then a transform": (RAGGED, {"collate_fn": _padded, "transform": _shuffled}),
}


@pytest.mark.parametrize("name", REORDERING)
def test_rows_in_another_order_are_refused_at_the_first_draw(name):
    rows, options = REORDERING[name]
    sampler = GroupSampler(rows, LABELS, batch_size=8, **options)
    for _ in range(2):
        with pytest.raises(ValueError, match="must keep the order of the rows"):
            sampler.next_batch()


KEEPING = {
    "texts": (TEXTS, {"collate_fn": lambda rows: {"text": list(rows), "sorted": "no"}}),
    "pairs of texts": (TEXTS, {"collate_fn": lambda rows: [{"one": row, "other": row[:1]} for row in rows]}),
    "padded": (RAGGED, {"collate_fn": _padded}),
    "noise": (TABLE, {"transform": lambda batch: batch + torch.rand_like(batch)}),
    "rows without entries": (TABLE, {"transform": lambda batch: batch[:, :0]}),
    "equal rows": (TABLE, {"transform": torch.zeros_like}),
    "a place in the batch": (TABLE, {"transform": lambda batch: {"rows": batch, "place": torch.arange(len(batch))}}),
    "noise and a place": (TABLE, {"transform": lambda batch: [batch + torch.rand_like(batch), torch.arange(len(batch))]}),
    "normalised over the batch": (TABLE, {"transform": lambda batch: batch / batch.norm()}),
    "graphs": (
        RAGGED,
        {"collate_fn": lambda rows: {"nodes": torch.cat(rows), "owner": torch.repeat_interleave(torch.arange(len(rows)), 2)}},
    ),
    "packed": (RAGGED, {"collate_fn": lambda rows: torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)}),
    "time first": (RAGGED, {"collate_fn": lambda rows: torch.nn.utils.rnn.pad_sequence(rows)}),
    "frames in the batch": (TABLE, {"transform": lambda batch: batch.repeat_interleave(4, 0)}),
    "a number": (TABLE, {"transform": len}),
}


@pytest.mark.parametrize("name", KEEPING)
def test_collators_that_keep_the_order_are_taken_and_the_look_at_them_draws_no_numbers(name):
    rows, options = KEEPING[name]
    torch.manual_seed(0)
    sampler = GroupSampler(rows, LABELS, batch_size=8, **options)
    sampler.next_batch()
    after = torch.rand(1)
    torch.manual_seed(0)
    if "noise" in name:
        torch.rand(8, 3)
    assert torch.equal(after, torch.rand(1))
    assert len(sampler.next_batch().groups) == 8


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (TABLE, {"transform": lambda batch: batch[batch[:, 0] > 40]}),
        (TABLE, {"transform": lambda batch: {"one": batch[1:], "two": batch[1:, 0]}}),
        (RAGGED, {"collate_fn": lambda rows: _padded([row for row in rows if len(row) > 1])}),
        ([f"text {row}" for row in range(ROWS)], {"transform": lambda texts: texts[1:]}),
    ],
    ids=["by value", "in a dict", "unreadable", "texts"],
)
def test_dropped_rows_are_refused_with_both_numbers(rows, options):
    with pytest.raises(ValueError, match=rf"must keep every row, got \d+ rows of {ROWS} drawn"):
        GroupSampler(rows, LABELS, batch_size=ROWS, **options).next_batch()


def test_workers_tell_too():
    sampler = GroupSampler(TABLE, LABELS, batch_size=8, transform=_shuffled, num_workers=1)
    with pytest.raises(ValueError, match="must keep the order of the rows"):
        sampler.next_batch()
    sampler.close()
