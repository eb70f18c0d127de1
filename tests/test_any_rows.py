"""Auxiliary rows of any structure: texts, ragged rows, dicts, tuples and lists, from the sampler to the extractor."""

import copy
import warnings
from collections import UserDict, namedtuple

import numpy as np
import pandas
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset, default_collate

from wdpurify import GroupBatch, GroupSampler, PurifyRegularizer
from wdpurify.exceptions import AuxiliaryDataWarning

ROWS = 48
GROUPS = [row % 2 for row in range(ROWS)]
LENGTHS = [1 + row % 5 for row in range(ROWS)]
NUMBERS = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(0)) + torch.tensor(GROUPS)[:, None]
CATEGORIES = torch.arange(ROWS) % 3


def _rows(images):
    return images.flatten().long().tolist()


def _padded(rows):
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def _ragged():
    return [torch.full((length,), 1 + row) for row, length in enumerate(LENGTHS)]


def _trained(model, sampler, call, steps=3, **options):
    """A few steps of a loop with a wrapped criterion; the regularizer."""
    purify = PurifyRegularizer.for_model(model, sampler, **options)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(steps):
        loss = criterion(call(model), torch.tensor(GROUPS))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return purify


# What the sampler collates.


def test_ragged_rows_reach_the_collator_and_then_the_transform():
    sampler = GroupSampler(
        _ragged(), GROUPS, batch_size=8, collate_fn=_padded, transform=lambda batch: {**batch, "segment": torch.zeros(8)}
    )
    batch = sampler.next_batch()
    assert set(batch.images) == {"input_ids", "attention_mask", "segment"}
    assert [GROUPS[row - 1] for row in batch.images["input_ids"][:, 0].tolist()] == batch.groups.tolist()
    lengths = [LENGTHS[row - 1] for row in batch.images["input_ids"][:, 0].tolist()]
    assert batch.images["attention_mask"].sum(1).tolist() == lengths


@pytest.mark.parametrize(
    "rows", [torch.arange(6), np.arange(6), list(range(6)), pandas.Series(range(6), index=range(5, -1, -1))]
)
def test_the_collator_gets_a_list_of_what_was_drawn_in_the_same_order(rows):
    given = []

    def collate(items):
        given.append(items)
        return torch.tensor([float(item) for item in items])

    options = {"fixed": "a", "batch_size": 2}
    batch = GroupSampler(rows, list("aabbbb"), collate_fn=collate, **options).next_batch()
    assert type(given[0]) is list
    assert _rows(batch.images) == _rows(GroupSampler(torch.arange(6), list("aabbbb"), **options).next_batch().images)


def test_a_collator_gets_whole_rows_and_its_list_of_tuples_is_a_tuple_of_inputs():
    rows = TensorDataset(NUMBERS, CATEGORIES)
    images = GroupSampler(rows, GROUPS, batch_size=8, collate_fn=default_collate).next_batch().images
    assert type(images) is tuple
    assert [tuple(each.shape) for each in images] == [(8, 8), (8,)]
    first = GroupSampler(rows, GROUPS, batch_size=8).next_batch().images
    assert torch.equal(images[0], first)


def test_a_collator_changes_neither_order_nor_state():
    options = {"batch_size": 7, "seed": 3}
    plain, collated = (GroupSampler(NUMBERS, GROUPS, collate_fn=each, **options) for each in (None, torch.stack))
    for _ in range(12):
        one, other = plain.next_batch(), collated.next_batch()
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.groups, other.groups)
    assert plain.state_dict() == collated.state_dict()
    resumed = copy.deepcopy(collated)
    assert torch.equal(resumed.next_batch().images, plain.next_batch().images)


def test_rows_of_several_tensors_stack_entry_by_entry_and_texts_stay_a_list():
    dicts = [{"one": NUMBERS[row], "two": CATEGORIES[row]} for row in range(ROWS)]
    images = GroupSampler(dicts, GROUPS, batch_size=8).next_batch().images
    assert {name: tuple(value.shape) for name, value in images.items()} == {"one": (8, 8), "two": (8,)}
    lists = [[NUMBERS[row], NUMBERS[row]] for row in range(ROWS)]
    assert [tuple(each.shape) for each in GroupSampler(lists, GROUPS, batch_size=8).next_batch().images] == [(8, 8)] * 2
    texts = [f"row {row}" for row in range(ROWS)]
    for rows in (
        texts,
        np.array(texts),
        np.array(texts, dtype=object),
        pandas.Series(texts),
        [np.str_(text) for text in texts],
    ):
        images = GroupSampler(rows, GROUPS, batch_size=8).next_batch().images
        assert type(images) is list
        assert {type(text) for text in images} <= {str, np.str_}
        lengths = GroupSampler(rows, GROUPS, batch_size=8, transform=lambda texts: [len(text) for text in texts]).next_batch()
        assert lengths.images == [len(text) for text in images]


def test_texts_train_through_a_tokenizer_as_collator(recwarn):
    transformers = pytest.importorskip("transformers")
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
        )
    )

    def tokenized(rows):
        return transformers.BatchEncoding(_padded(rows))

    sampler = GroupSampler(_ragged(), GROUPS, batch_size=8, collate_fn=tokenized)
    purify = _trained(model, sampler, lambda model: model(**tokenized(_ragged())).logits)
    assert purify.metrics().dropped_rows == 0
    assert purify.metrics().feature_norm > 0


# What the extractor is given.

Pair = namedtuple("Pair", "numbers category")


class _Table(nn.Module):
    """Numbers and a category, by position or by name."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)
        self.given = []

    def forward(self, numbers, category):
        return self.head(torch.relu(self.body(numbers) + self.embedding(category)))


class _Whole(_Table):
    """Takes all its inputs as one argument, with any other argument optional."""

    def forward(self, features, scale=1.0):
        if isinstance(features, dict):
            features = features["numbers"], features["category"]
        if isinstance(features[0], (tuple, list)):
            features = features[0]
        return super().forward(*features) * scale


def _table_rows(form):
    return [form(NUMBERS[row], CATEGORIES[row]) for row in range(ROWS)]


@pytest.mark.parametrize(
    ("make", "form", "collate_fn"),
    [
        (_Table, lambda *each: dict(zip(Pair._fields, each, strict=True)), None),
        (_Table, lambda *each: list(each), None),
        (_Table, lambda *each: each, default_collate),
        (_Table, lambda *each: each, lambda rows: UserDict(zip(Pair._fields, default_collate(rows), strict=True))),
        (_Whole, lambda *each: dict(zip(Pair._fields, each, strict=True)), None),
        (_Whole, lambda *each: list(each), None),
        (_Whole, lambda *each: each, lambda rows: ([*default_collate(rows)],)),
        (_Whole, lambda *each: each, lambda rows: Pair(*default_collate(rows))),
    ],
    ids=["dict", "list", "tuple", "mapping", "dict as one", "list as one", "nested as one", "named tuple as one"],
)
def test_inputs_go_by_name_by_position_or_as_one_as_the_forward_takes_them(make, form, collate_fn):
    torch.manual_seed(0)
    model = make().double()
    sampler = GroupSampler(_table_rows(form), GROUPS, batch_size=8, collate_fn=collate_fn)
    task = (NUMBERS.double(), CATEGORIES)
    purify = _trained(model, sampler, lambda model: model(task) if make is _Whole else model(*task), layer="head")
    assert purify.metrics().dropped_rows == 0
    assert purify.metrics().gradient_ratio is not None


class _Sentences(nn.Module):
    """As sentence encoders are called: one dict by position, which they write to, and a dict returned."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(60, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, features, **options):
        mask = features["attention_mask"][:, :, None]
        features.update(sentence=(self.embedding(features["input_ids"]) * mask).sum(1) / mask.sum(1))
        return {"scores": self.head(features["sentence"])}


def test_a_model_of_one_dict_by_position_is_given_the_dict():
    model = _Sentences()
    sampler = GroupSampler(_ragged(), GROUPS, batch_size=8, collate_fn=_padded)
    purify = _trained(model, sampler, lambda model: model(_padded(_ragged()))["scores"])
    assert purify.metrics().gradient_ratio is not None
    loose = PurifyRegularizer(lambda rows: model(rows)["scores"], sampler, feature_dim=2, model=model)
    loose.critic_step()
    assert loose.metrics().dropped_rows == 0


def test_a_model_with_some_of_the_names_is_called_by_name_and_refuses_the_others():
    rows = [{"numbers": NUMBERS[row], "category": CATEGORIES[row], "colour": CATEGORIES[row]} for row in range(ROWS)]
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        PurifyRegularizer.for_model(_Table(), GroupSampler(rows, GROUPS, batch_size=8), layer="head").critic_step()


def test_packed_sequences_are_given_as_they_are():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRU(1, 8, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, packed):
            return self.head(self.cell(packed)[1][0])

    def packed(rows):
        return nn.utils.rnn.pack_sequence([row[:, None].float() / ROWS for row in rows], enforce_sorted=False)

    sampler = GroupSampler(_ragged(), GROUPS, batch_size=8, collate_fn=packed)
    purify = _trained(Recurrent(), sampler, lambda model: model(packed(_ragged())), layer="head")
    assert purify.metrics().dropped_rows == 0


class _Batches:
    """A sampler of one batch."""

    n_groups = 2

    def __init__(self, images, rows):
        groups = torch.arange(rows) % 2
        self.batch = GroupBatch(images, groups, torch.ones(rows, dtype=torch.bool))

    def next_batch(self):
        return self.batch

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("form", [dict, tuple, list], ids=["by name", "by position", "as a list"])
def test_rows_that_are_not_finite_are_found_in_every_floating_tensor(form):
    numbers, others = NUMBERS[:8].clone(), NUMBERS[8:16].clone()
    numbers[1, 2], others[4, 0] = float("nan"), float("inf")
    given = {"numbers": numbers, "others": {"nested": [others]}}
    images = given if form is dict else form(given.values())

    class Sum(_Table):
        def forward(self, numbers, others):
            assert numbers.isfinite().all()
            assert others["nested"][0].isfinite().all()
            return self.head(self.body(numbers + others["nested"][0]))

    purify = PurifyRegularizer.for_model(Sum(), _Batches(images, 8), layer="head")
    purify.critic_step()
    assert purify.metrics().dropped_rows == 2


def _nested(rows):
    return torch.nested.nested_tensor([row[:, None].float() for row in rows])


def _sparse(rows):
    return torch.stack([row[:3].float() for row in rows]).to_sparse()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested", "ignore:Sparse")
@pytest.mark.parametrize("kind", ["nested", "sparse"])
def test_nested_and_sparse_batches_reach_the_model(kind):
    class Means(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(1, 4), nn.Linear(4, 2)

        def forward(self, rows):
            rows = rows.to_dense() if kind == "sparse" else torch.stack([row.mean(0) for row in rows.unbind()])
            return self.head(self.body(rows.mean(1, keepdim=True)))

    rows = [torch.arange(3.0) + row for row in range(ROWS)] if kind == "sparse" else _ragged()
    collate = _sparse if kind == "sparse" else _nested
    sampler = GroupSampler(rows, GROUPS, batch_size=8, collate_fn=collate)
    purify = PurifyRegularizer.for_model(Means(), sampler, layer="head")
    purify.critic_step()
    assert purify.metrics().separation == purify.metrics().separation


@pytest.mark.parametrize("lowest", [-torch.inf, torch.finfo(torch.float32).min])
def test_a_mask_that_attention_adds_leaves_no_row_out(lowest):
    mask = torch.zeros(8, 8)
    mask[::2, 2] = lowest
    numbers = NUMBERS[:8].clone()
    numbers[1, 2] = torch.inf

    class Masked(_Table):
        def forward(self, numbers, mask):
            return self.head(self.body(numbers * mask.exp().mean(1, keepdim=True)))

    purify = PurifyRegularizer.for_model(Masked(), _Batches({"numbers": numbers, "mask": mask}, 8), layer="head")
    purify.critic_step()
    assert purify.metrics().dropped_rows == 1


def test_a_model_that_changes_its_inputs_in_place_reads_the_same_rows_again():
    """SAM repeats the forward of auxiliary rows at other weights."""
    given = {"ids": torch.arange(8), "numbers": NUMBERS[:8].clone()}

    class InPlace(_Table):
        def forward(self, ids, numbers):
            assert ids.max() == 7
            ids.add_(1)
            return self.head(self.body(numbers.mul_(0.5) + ids[:, None]))

    model = InPlace()
    purify = PurifyRegularizer.for_model(model, _Batches(given, 8), layer="head")
    criterion = purify.criterion(nn.CrossEntropyLoss())
    for change in (0.0, 0.1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(change)
        criterion(model(torch.arange(8), NUMBERS[:8].clone()), torch.arange(8) % 2).backward()
    assert torch.equal(given["ids"], torch.arange(8))
    assert torch.equal(given["numbers"], NUMBERS[:8])


@pytest.mark.parametrize("form", [dict, tuple], ids=["by name", "by position"])
def test_padding_is_left_out_however_the_mask_is_given(form):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(60, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, input_ids, attention_mask):
            return self.head(self.embedding(input_ids))

    def features(padding):
        torch.manual_seed(0)
        batch = _padded(_ragged()[:8])
        batch = {name: nn.functional.pad(value, (0, padding)) for name, value in batch.items()}
        images = batch if form is dict else tuple(batch.values())
        purify = PurifyRegularizer.for_model(Tokens(), _Batches(images, 8), layer="head")
        purify.critic_step()
        return purify.metrics().feature_norm

    assert features(0) == pytest.approx(features(9))


def test_the_width_is_found_where_entries_have_other_lengths_than_the_batch():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(8, 5)

        def forward(self, nodes, owner):
            return torch.zeros(8, 5).index_add(0, owner, self.body(nodes))

    images = {"nodes": NUMBERS[:24], "owner": torch.arange(24) // 3}
    purify = PurifyRegularizer(Graph(), _Batches(images, 8))
    purify.critic_step()
    assert purify.metrics().dropped_rows == 0


def test_erasing_reads_batches_by_position():
    torch.manual_seed(0)
    model = _Table()
    sampler = GroupSampler(_table_rows(lambda *each: each), GROUPS, batch_size=8, collate_fn=default_collate)
    purify = PurifyRegularizer.for_model(model, sampler, layer="head")
    report = purify.erase([((NUMBERS, CATEGORIES), torch.tensor(GROUPS))])
    assert report.directions == 1
    assert report.refitted == ROWS


# What was wrong in silence.


class _Optional(_Table):
    def forward(self, numbers, category=None):
        return super().forward(numbers, torch.zeros(len(numbers), dtype=torch.int64) if category is None else category)


def test_a_second_tensor_that_the_model_could_take_is_not_lost_in_silence():
    rows = TensorDataset(NUMBERS, CATEGORIES)
    with pytest.warns(AuxiliaryDataWarning, match=r"rows of 2 tensors.*gets the first.* Give `collate_fn=torch") as caught:
        PurifyRegularizer.for_model(_Optional(), GroupSampler(rows, GROUPS, batch_size=8), layer="head")
    assert len(caught) == 1
    with pytest.warns(AuxiliaryDataWarning, match="rows of 2 tensors"):
        PurifyRegularizer.for_model(_Table(), GroupSampler(rows, GROUPS, batch_size=8), layer="head")


@pytest.mark.parametrize(
    ("make", "rows", "options"),
    [
        (_Optional, TensorDataset(NUMBERS, torch.tensor(GROUPS)), {}),
        (_Optional, TensorDataset(NUMBERS, CATEGORIES), {"balance": CATEGORIES}),
        (_Optional, TensorDataset(NUMBERS, CATEGORIES), {"collate_fn": default_collate}),
        (_Optional, TensorDataset(NUMBERS), {}),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), TensorDataset(NUMBERS, CATEGORIES), {}),
    ],
    ids=["the groups", "the classes", "given", "no second", "a model of one input"],
)
def test_a_second_tensor_that_is_a_label_or_fits_nowhere_is_no_reason_to_warn(make, rows, options, recwarn):
    PurifyRegularizer.for_model(make(), GroupSampler(rows, GROUPS, batch_size=8, **options))
    assert not [each for each in recwarn if "tensors" in str(each.message)]


class _Numbered:
    """Rows that begin with a number, as some collections of biased data sets have them."""

    def __init__(self, *columns, number=int):
        self.columns, self.number = columns, number

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        return self.number(row), *(column[row] for column in self.columns)


@pytest.mark.parametrize(
    "rows",
    [
        _Numbered(NUMBERS, CATEGORIES),
        _Numbered(NUMBERS, CATEGORIES, number=torch.tensor),
        _Numbered(NUMBERS.numpy(), number=np.int64),
        _Numbered(CATEGORIES, CATEGORIES),
        _Numbered(NUMBERS, number=lambda row: row % 2),
    ],
    ids=["int", "tensor", "numpy", "an id behind it", "a label first"],
)
def test_rows_that_begin_with_a_number_are_refused_and_the_remedy_works(rows):
    with pytest.raises(TypeError, match=r"begin with a whole number.*Give `collate_fn=(.*row\[1\].*)`, ") as caught:
        GroupSampler(rows, GROUPS, batch_size=8).next_batch()
    line = str(caught.value).partition("`collate_fn=")[2].partition("`")[0]
    images = GroupSampler(rows, GROUPS, batch_size=8, collate_fn=eval(line)).next_batch().images
    plain = GroupSampler(rows.columns[0], GROUPS, batch_size=8).next_batch().images
    assert torch.equal(images, plain)


@pytest.mark.parametrize("rows", [_Numbered(["x"] * ROWS), TensorDataset(torch.arange(ROWS), CATEGORIES)])
def test_numbers_that_may_be_the_input_are_taken(rows):
    assert len(GroupSampler(rows, GROUPS, batch_size=8).next_batch().images) == 8


@pytest.mark.parametrize(("broken", "said"), [(0, False), (2, False), (12, True)])
def test_rows_that_are_left_out_again_and_again_are_named(broken, said):
    numbers = NUMBERS.clone()
    numbers[:broken] = torch.nan
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        purify = _trained(model, GroupSampler(numbers, GROUPS, batch_size=48), lambda net: net(NUMBERS), steps=8)
    assert purify.metrics().dropped_rows == broken
    named = [each for each in caught if "25% of the auxiliary rows" in str(each.message)]
    assert len(named) == said
    assert all(each.category is AuxiliaryDataWarning for each in named)
