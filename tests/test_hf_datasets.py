"""group_sampler: batches from Hugging Face data sets, map-style and streamed."""

import importlib
import sys

import numpy as np
import pytest
import torch

from wdpurify import GroupSampler
from wdpurify.exceptions import AuxiliaryDataWarning

datasets = pytest.importorskip("datasets")
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value  # noqa: E402
from hf_faces import HAIR, ROWS, count_decoding, draw, faces, images_of, rows_of  # noqa: E402

from wdpurify.integrations.hf_datasets import group_sampler  # noqa: E402

datasets.disable_progress_bars()


# Labels


@pytest.mark.parametrize(
    ("group", "fixed", "value"), [("bool", True, True), ("name", "x", "x"), ("name", 0, "x"), ("text", "p", "p")]
)
def test_map_style_rows_come_in_the_order_of_group_sampler(group, fixed, value):
    sampler = group_sampler(faces(), group=group, fixed=fixed, batch_size=5, seed=3)
    same = GroupSampler(torch.arange(ROWS), [row % 3 for row in range(ROWS)], fixed=0, batch_size=5, seed=3)
    assert sampler.values == (value,)
    assert sampler.n_groups == 1
    for _ in range(8):
        batch, expected = sampler.next_batch(), same.next_batch()
        assert rows_of(batch) == expected.images.tolist()
        assert torch.equal(batch.groups, expected.groups)
        assert torch.equal(batch.population, expected.population)


@pytest.mark.parametrize(
    ("group", "values"), [("bool", {True, False}), ("name", set("xyz")), ("text", set("pqr")), ("row", set(range(9)))]
)
def test_with_all_groups_each_row_has_the_index_of_its_own_value(group, values):
    dataset = faces(9)
    sampler = group_sampler(dataset, group=group, batch_size=4)
    assert set(sampler.values) == values
    truth = dict(zip(range(9), dataset["name"] if group == "name" else dataset[group], strict=True))
    for _ in range(5):
        batch = sampler.next_batch()
        found = [sampler.values[index] for index in batch.groups.tolist()]
        assert found == ["xyz"[truth[row]] if group == "name" else truth[row] for row in rows_of(batch)]
        assert batch.population.all()


@pytest.mark.parametrize("off", [False, 0, -1])
def test_several_columns_make_one_group_by_the_name_of_the_one_that_is_set(off):
    on = True if off is False else 1
    columns = {name: [on if row % 3 == place else off for row in range(12)] for place, name in enumerate(HAIR)}
    sampler = group_sampler(faces(12, **columns), one_hot=HAIR, batch_size=12)
    batch = sampler.next_batch()
    assert [sampler.values[index] for index in batch.groups.tolist()] == [HAIR[row % 3] for row in rows_of(batch)]


def hair(black, blond):
    return faces(len(black), Black=black, Blond=blond)


@pytest.mark.parametrize(
    ("dataset", "group", "fault", "kept"),
    [
        (lambda: hair([1, 0, 0, 1, 0], [0, 1, 0, 0, 1]), HAIR[:2], "missing", [0, 1, 3, 4]),
        (lambda: hair([1, 0, None, 1, 0], [0, 1, 0, 0, 1]), HAIR[:2], "missing", [0, 1, 3, 4]),
        (lambda: hair([1, 0, 1, 1, 0], [0, 1, 1, 0, 1]), HAIR[:2], "ambiguous", [0, 1, 3, 4]),
        (lambda: faces(4, tone=["a", None, "b", "b"]), "tone", "missing", [0, 2, 3]),
        (lambda: faces(4, tone=[1.0, float("nan"), 2.0, 2.0]), "tone", "missing", [0, 2, 3]),
        (lambda: faces(4, tone=[0, 1, -1, 1]).cast_column("tone", ClassLabel(names=["a", "b"])), "tone", "missing", [0, 1, 3]),
    ],
)
@pytest.mark.parametrize("kind", ["map", "stream"])
def test_rows_without_one_label_raise_or_are_dropped_by_name(dataset, group, fault, kept, kind):
    dataset, options = dataset(), {"group" if group == "tone" else "one_hot": group, "batch_size": len(kept)}
    if kind == "stream":
        options |= (
            {"values": sorted({value for value in dataset["tone"] if value == value and value})} if group == "tone" else {}
        )
        options |= {"values": None} if "tone" in dataset.features and hasattr(dataset.features["tone"], "names") else {}
        dataset = dataset.to_iterable_dataset()
    with pytest.raises(ValueError, match=rf'it is {fault} in row [12] .*`unlabelled="drop"`'):
        group_sampler(dataset, **options).next_batch()
    assert sorted(rows_of(group_sampler(dataset, **options, unlabelled="drop").next_batch())) == kept


def test_columns_of_group_are_labels_of_their_own_with_missing_ones():
    columns = {"sex": [1, 0] * 6, "race": ["a", "b", None] * 4, "age": [float(20 + row % 6) for row in range(12)]}
    dataset = faces(12, **columns)
    sampler = group_sampler(dataset, group=["sex", "race", "age"], batch_size=12)
    values = [("sex", 1), ("sex", 0), ("race", "a"), ("race", "b"), *[("age", float(20 + row)) for row in range(6)]]
    assert sampler.values == tuple(values)
    batch = sampler.next_batch()
    for row, numbers in zip(rows_of(batch), batch.groups.tolist(), strict=True):
        found = [sampler.values[number][1] if number >= 0 else None for number in numbers]
        assert found == [columns[name][row] for name in columns]
    nothing = faces(4, sex=[1, None, 1, 0], race=["a", None, "b", None])
    with pytest.raises(ValueError, match="no label in row 1"):
        group_sampler(nothing, group=["sex", "race"], batch_size=3)
    assert sorted(rows_of(group_sampler(nothing, group=["sex", "race"], batch_size=3, unlabelled="drop").next_batch())) == [
        0,
        2,
        3,
    ]
    with pytest.raises(ValueError, match="`fixed` and `values` belong to one label"):
        group_sampler(dataset, group=["sex", "race"], fixed="a")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_sampler_is_an_iterator_and_prints_its_options(streamed):
    rows = Dataset.from_dict({"x": torch.rand(24, 3).tolist(), "camera": ["old", "new"] * 12})
    options = {"group": "camera", "image": "x", "batch_size": 4, "seed": 7, "values": ["old", "new"] if streamed else None}
    sampler, again = (group_sampler(rows.to_iterable_dataset() if streamed else rows, **options) for _ in range(2))
    for batch, _ in zip(sampler, range(3), strict=False):
        assert torch.equal(batch.images, again.next_batch().images)
    shown = repr(again)
    assert "batch_size=4" in shown
    assert "seed=7" in shown
    assert "num_workers=0" in shown


def test_the_former_form_of_one_hot_columns_works_with_a_warning():
    columns = {name: [int(row % 3 == place) for row in range(12)] for place, name in enumerate(HAIR)}
    for dataset in (faces(12, **columns), faces(12, **columns).to_iterable_dataset()):
        with pytest.warns(FutureWarning, match="Give `one_hot`"):
            sampler = group_sampler(dataset, group=HAIR, batch_size=6)
        assert sampler.values == tuple(HAIR)


def test_class_labels_and_single_columns_are_never_taken_for_one_hot():
    classes = faces(12, sex=[0, 1, 0] * 4, site=[0, 0, 1] * 4)
    for name in ("sex", "site"):
        classes = classes.cast_column(name, ClassLabel(names=["a", "b"]))
    assert len(group_sampler(classes, group=["sex", "site"], batch_size=4).values) == 4
    assert group_sampler(classes, group=["sex"], batch_size=4).values == (("sex", "a"), ("sex", "b"))
    assert group_sampler(classes.to_iterable_dataset(), group=["sex"], batch_size=4).values == ("a", "b")
    with pytest.raises(ValueError, match="`one_hot` must name several columns"):
        group_sampler(classes, one_hot="sex", batch_size=4)


def test_labels_follow_shuffle_select_and_filter():
    dataset = faces().shuffle(seed=1).select(range(5, 40)).filter(lambda row: row["row"] != 7)
    sampler = group_sampler(dataset, group="bool", fixed=True, batch_size=6)
    for rows in draw(sampler, 10):
        assert all(row % 3 == 0 for row in rows[:6])
        assert set(rows) <= set(dataset["row"])


# Images


def test_no_image_is_decoded_before_it_is_drawn(monkeypatch, streamed):
    decoded = count_decoding(monkeypatch)
    for dataset, rows in ((faces(), 8), (streamed, 8)):
        sampler = group_sampler(dataset, group="bool", fixed=True, batch_size=4, buffer_size=16)
        assert decoded == []
        sampler.next_batch()
        assert len(decoded) == rows
        decoded.clear()


def test_images_become_rgb_floats_between_zero_and_one():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    dataset = Dataset.from_dict(
        {"image": [pixels, pixels], "k": [0, 1]}, features=Features({"image": Image(), "k": Value("int64")})
    )
    images = group_sampler(dataset, group="k", batch_size=2).next_batch().images
    torch.testing.assert_close(images[0], torch.from_numpy(pixels.transpose(2, 0, 1) / 255).float())
    grey = Dataset.from_dict({"image": [pixels[:, :, 0]] * 2, "k": [0, 1]}, features=dataset.features)
    images = group_sampler(grey, group="k", batch_size=2).next_batch().images
    torch.testing.assert_close(images[0], torch.from_numpy(pixels[:, :, 0] / 255).float().expand(3, 4, 5))


def test_transform_gets_one_decoded_image_whatever_the_format(streamed):
    def transform(image):
        return torch.tensor([image.width, image.getpixel((0, 0))[0]])

    plain = images_of(group_sampler(faces(), group="bool", transform=transform, batch_size=4), 3)
    formatted = images_of(group_sampler(faces().with_format("torch"), group="bool", transform=transform, batch_size=4), 3)
    assert torch.equal(plain, formatted)
    batch = group_sampler(streamed.with_format("torch"), group="bool", transform=transform, batch_size=4).next_batch()
    assert batch.images[:, 0].tolist() == [4] * 4
    assert all(
        row % 3 == group
        for row, group in zip(batch.images[:, 1].tolist(), (1 - batch.groups).tolist(), strict=True)
        if not group
    )


def test_a_transform_set_on_the_data_set_is_applied_and_may_make_the_column():
    dataset = faces()
    dataset.set_transform(lambda rows: {"pixels": [torch.full((2,), image.getpixel((0, 0))[0]) for image in rows["image"]]})
    batch = group_sampler(dataset, group="bool", fixed=True, image="pixels", batch_size=4).next_batch()
    assert all(row % 3 == 0 for row in batch.images[:4, 0].tolist())
    with pytest.raises(ValueError, match=r"no column 'image'. Choose from 'pixels'"):
        group_sampler(dataset, group="bool", batch_size=4).next_batch()


@pytest.mark.parametrize("streaming", [False, True])
def test_several_columns_come_as_a_dict(streaming):
    tokens = Dataset.from_dict(
        {"ids": [[row, 5] for row in range(6)], "mask": [[1, row % 2] for row in range(6)], "k": [0, 1] * 3}
    )
    tokens = tokens.to_iterable_dataset() if streaming else tokens
    values = {"values": [0, 1]} if streaming else {}
    batch = group_sampler(tokens, group="k", image=["ids", "mask"], batch_size=3, **values).next_batch()
    assert batch.images.keys() == {"ids", "mask"}
    assert batch.images["ids"][:, 0].remainder(2).tolist() == batch.images["mask"][:, 1].tolist() == batch.groups.tolist()
    summed = group_sampler(
        tokens, group="k", image=["ids", "mask"], batch_size=3, transform=lambda row: torch.tensor(sum(row["ids"])), **values
    )
    assert torch.equal(summed.next_batch().images, batch.images["ids"].sum(1))


def test_transforms_that_make_no_batch_are_refused():
    with pytest.raises(TypeError, match="`transform` must return a tensor or a dict of tensors, got PngImageFile"):
        group_sampler(faces(), group="bool", transform=lambda image: image, batch_size=2).next_batch()
    with pytest.raises(ValueError, match=r"`transform` must return one shape for all rows, got \[\(\d+,\), \(\d+,\)"):
        group_sampler(
            faces(), group="bool", transform=lambda image: torch.ones(image.getpixel((0, 0))[0]), batch_size=2
        ).next_batch()
    with pytest.raises(TypeError, match="`transform` must map the `image` column's str to a tensor"):
        group_sampler(faces(), group="bool", image="text", batch_size=2).next_batch()


# Errors of both kinds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "hair"}, r"`group` must be columns of `dataset`, got \['hair'\]. Choose from \['image', 'row', 'name'"),
        ({"group": "nane"}, r"`group` must be columns of `dataset`, got \['nane'\]\. .* for example `group='name'`$"),
        ({"group": []}, r"`group` must be columns of `dataset`, got \[\]\. .* for example `group='(?!image)\w+'`$"),
        ({"one_hot": ["hair"]}, r"`one_hot` must be columns of `dataset`, .* for example `one_hot=\['\w+', '\w+'\]`$"),
        ({"group": ["bool", "hair"]}, r"`group` must be columns of `dataset`, got \['hair'\]"),
        ({"group": "bool", "image": "photo"}, r"`image` must be columns of `dataset`, got \['photo'\]"),
        ({"group": "bool", "unlabelled": "ignore"}, "`unlabelled` must be one of 'raise', 'drop', got 'ignore'"),
        ({"one_hot": ["bool", "row"]}, "`one_hot` column 'row' must hold booleans, 0/1 or -1/1, got \\d+"),
        ({}, "one of `group` and `one_hot`"),
        ({"group": "bool", "one_hot": HAIR}, "one of `group` and `one_hot`"),
    ],
)
def test_unknown_columns_and_policies_are_named(either, options, message):
    with pytest.raises(ValueError, match=message):
        group_sampler(either, **({"unlabelled": "drop"} | options)).next_batch()


def test_other_arguments_that_do_not_fit_are_named():
    with pytest.raises(
        TypeError, match=r"Dataset or an IterableDataset, got DatasetDict. Choose one of its splits 'train', 'test'"
    ):
        group_sampler(DatasetDict(train=faces(6), test=faces(6)), group="bool")
    with pytest.raises(TypeError, match="got list"):
        group_sampler([1, 2], group="bool")
    with pytest.raises(ValueError, match="`values` is for streams"):
        group_sampler(faces(6), group="text", values=["p"])
    with pytest.raises(ValueError, match=r"must label some of the 6 rows of `dataset`, got none: \{'dropped as missing': 6\}"):
        group_sampler(faces(6, tone=[None] * 6), group="tone", unlabelled="drop")
    with pytest.raises(TypeError, match="`group` column 'tone' must hold one label per row, got a list"):
        group_sampler(faces(6, tone=[[1]] * 6), group="tone")
    with pytest.raises(ValueError, match="the group True has 2 rows, fewer than `batch_size` 3"):
        group_sampler(faces(6), group="bool", fixed=True, batch_size=3)


def test_a_missing_library_is_named_with_the_command(monkeypatch):
    for name in ("hf_datasets", "_streaming"):
        monkeypatch.delitem(sys.modules, f"wdpurify.integrations.{name}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[datasets\]"'):
        importlib.import_module("wdpurify.integrations.hf_datasets")


# Texts and ragged rows


def _padded(rows):
    """Texts as numbers of their letters, padded; one number of the batch is drawn at random."""
    ids = [torch.tensor(list(text.encode())) for text in rows]
    return {"ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True), "noise": torch.rand(2)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_texts_reach_the_collator_as_they_are_and_batches_do_not_depend_on_workers(num_workers):
    texts = Dataset.from_dict({"text": ["x" * (1 + row) for row in range(20)], "source": ["a", "b"] * 10})
    options = {"group": "source", "image": "text", "batch_size": 4, "seed": 3, "collate_fn": _padded}
    sampler = group_sampler(texts, num_workers=num_workers, **options)
    same = GroupSampler(torch.arange(20), ["a", "b"] * 10, batch_size=4, seed=3)
    plain = group_sampler(texts, **options)
    before = torch.get_rng_state()
    for _ in range(6):
        batch, expected, alone = sampler.next_batch(), same.next_batch(), plain.next_batch()
        assert [int((row > 0).sum()) - 1 for row in batch.images["ids"]] == expected.images.tolist()
        assert torch.equal(batch.groups, expected.groups)
        assert torch.equal(batch.images["noise"], alone.images["noise"])
    sampler.close()
    assert torch.equal(before, torch.get_rng_state())


def test_a_collator_comes_after_the_transform_and_gets_the_rows_of_several_columns(either):
    def together(rows):
        return torch.tensor([[row["row"], row["image"]] for row in rows])

    sampler = group_sampler(
        either,
        group="bool",
        image=["image", "row"],
        batch_size=4,
        transform=lambda row: {"row": row["row"], "image": row["image"].getpixel((0, 0))[0]},
        collate_fn=together,
    )
    for _ in range(3):
        images = sampler.next_batch().images
        assert torch.equal(images[:, 0], images[:, 1])


def test_texts_without_a_collator_are_refused_with_the_remedy():
    texts = Dataset.from_dict({"text": ["x"] * 20, "source": ["a", "b"] * 10})
    with pytest.raises(TypeError, match=r"column's str to a tensor, got None. Give `collate_fn`"):
        group_sampler(texts, group="source", image="text", batch_size=4).next_batch()


def _by_value(rows):
    return torch.tensor(sorted(rows))


def _even_ones(rows):
    return torch.tensor([row for row in rows if row % 2 == 0])


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(("collate_fn", "what"), [(_by_value, "the order of the rows"), (_even_ones, "every row")])
def test_a_collator_that_sorts_or_drops_rows_is_refused(collate_fn, what, num_workers):
    rows = Dataset.from_dict({"x": [float(row) for row in range(24)], "group": ["a", "b"] * 12})
    options = {"image": "x", "batch_size": 8, "num_workers": num_workers}
    with pytest.raises(ValueError, match=f"must keep {what}"):
        group_sampler(rows, group="group", collate_fn=collate_fn, **options).next_batch()


def test_tokens_without_their_mask_are_named():
    tokens = Dataset.from_dict({"input_ids": [[1, 2]] * 8, "attention_mask": [[1, 0]] * 8, "k": [0, 1] * 4})
    with pytest.warns(AuxiliaryDataWarning, match=r"Give `image=\['input_ids', 'attention_mask'\]`"):
        group_sampler(tokens, group="k", image="input_ids", batch_size=4)
    assert set(group_sampler(tokens, group="k", image=["input_ids", "attention_mask"], batch_size=4).next_batch().images) == {
        "input_ids",
        "attention_mask",
    }
