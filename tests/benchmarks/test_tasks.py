"""The data of the benchmark tasks: what goes with what, and which rows are in which split."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from purifybench.tasks import biased_colour, photo, real_digits, tinted_shapes
from purifybench.tasks.handwriting import load_handwriting


def _share_of_colour_equal_to_label(split):
    """Nearest of the ten hues to each image's ground, read from the corner pixels."""
    corner = split.images[:, :, :2, :2].float().mean((2, 3))
    corner = corner / corner.norm(dim=1, keepdim=True)
    hues = biased_colour.COLOURS / biased_colour.COLOURS.norm(dim=1, keepdim=True)
    return ((corner @ hues.T).argmax(1) == split.labels).float().mean().item()


@pytest.mark.parametrize("bias", [0.0, 0.5, 0.95])
def test_bias_is_the_share_of_training_digits_whose_colour_gives_them_away(bias):
    task = biased_colour.build(seed=0, bias=bias)
    expected = bias + (1 - bias) / 10
    assert abs(_share_of_colour_equal_to_label(task.train) - expected) < 0.06
    assert abs(_share_of_colour_equal_to_label(task.tests["clean"]) - expected) < 0.08
    for unbiased in (task.tests["shifted"], task.upper, task.oracle):
        assert abs(_share_of_colour_equal_to_label(unbiased) - 0.1) < 0.08


@pytest.mark.parametrize("build", [biased_colour.build, photo.build])
def test_tasks_are_the_same_for_a_seed_and_others_for_another(build):
    first, again, other = build(seed=3), build(seed=3), build(seed=4)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.auxiliary.images, again.auxiliary.images)
    assert not torch.equal(first.train.images, other.train.images)
    assert len(first.train.labels) == 800
    assert len(first.auxiliary.groups) == len(first.auxiliary.images) == 2000


def test_photographs_of_test_and_auxiliary_images_are_other_ones():
    assert not set(photo.AUXILIARY_PHOTOS) & set(photo.TEST_PHOTOS)


def test_blend_inverts_the_ground_under_the_ink():
    ground = torch.full((1, 3, 2, 2), 200, dtype=torch.uint8)
    ink = torch.tensor([[[1.0, 0.0], [0.5, 0.49]]])
    assert photo.blend(ink, ground)[0, 0].tolist() == [[55, 200], [55, 200]]
    assert photo.blend(ink, ground, threshold=0.01)[0, 0].tolist() == [[55, 200], [55, 55]]


def test_the_test_digits_are_the_same_for_every_seed_and_in_no_other_part():
    first, second = (load_handwriting(8, torch.Generator().manual_seed(seed)) for seed in (0, 1001))
    assert torch.equal(first.test.ink, second.test.ink)
    assert not torch.equal(first.train.ink, second.train.ink)
    rows = {tuple(ink.flatten().tolist()) for ink in first.test.ink}
    for part in (second.train, second.validation, second.auxiliary):
        overlap = sum(tuple(ink.flatten().tolist()) in rows for ink in part.ink)
        assert overlap == 0


@pytest.fixture
def sources(tmp_path):
    """Tiny data in the forms that users have: parquet folders of images with labels, and a folder of photographs."""

    def images(count, size):
        return [
            Image.fromarray(np.random.default_rng(row).integers(0, 255, (size, size), dtype=np.uint8)) for row in range(count)
        ]

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    for name, splits in {"digits": {"train": 60, "test": 20}, "shifted": {"test": 20}}.items():
        folder = tmp_path / name
        folder.mkdir()
        for split, count in splits.items():
            rows = {"image": images(count, 28), "label": [row % 10 for row in range(count)]}
            datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, image in enumerate(images(3, 64)):
        image.convert("RGB").save(photos / f"{number}.jpg")
    return tmp_path


def test_digits_of_28_pixels_get_their_border_whatever_the_size():
    white = Image.new("L", (28, 28), 255)
    for size in (16, 32):
        found = real_digits._as_tensor(white, size)
        assert found.shape == (3, size, size)
        assert found[:, 0].max() < 128 < found[:, size // 2, size // 2].min()  # black at the edge, as MNIST-M's recipe has it


def _real(sources, **options):
    given = {
        "train": str(sources / "digits"),
        "test": (str(sources / "shifted"),),
        "aux": str(sources / "photos"),
        "blend_photos": True,
        "image_column": "image",
        "label_column": "label",
        "group_column": None,
        "rows": 20,
    }
    return real_digits.build(seed=0, real=real_digits.RealData(**given | options), image_size=32)


def test_real_data_in_any_form_that_datasets_opens(sources, monkeypatch):
    monkeypatch.setattr(real_digits, "VALIDATION_ROWS", 10)
    monkeypatch.setattr(real_digits, "AUXILIARY_ROWS", 20)
    task = _real(sources)
    assert list(task.tests) == ["clean", "shifted"]
    assert task.train.images.shape == (20, 3, 32, 32)
    assert task.auxiliary.groups == ["train"] * 10 + ["aux"] * 10
    by_label = _real(sources, aux=str(sources / "digits"), blend_photos=False, group_column="label")
    assert set(by_label.auxiliary.groups) <= set(range(10))
    file = str(sources / "shifted" / "test-00000-of-00001.parquet")
    assert _real(sources, test=(file,), aux=file, blend_photos=False).auxiliary.groups == ["train"] * 10 + ["aux"] * 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_column": "digit"}, "no column 'digit'; it has image, label: set --image-column, --label-column"),
        ({"rows": 50}, "`train` must have 65 rows for `rows` 50, got 60"),
        ({"train": "digits/train-00000-of-00001.parquet"}, "has no split 'test'; it has train"),
    ],
)
def test_real_data_that_do_not_fit_are_named(sources, monkeypatch, options, message):
    monkeypatch.setattr(real_digits, "VALIDATION_ROWS", 10)
    monkeypatch.setattr(real_digits, "AUXILIARY_ROWS", 10)
    monkeypatch.chdir(sources)
    with pytest.raises(ValueError, match=message):
        _real(sources, **options)


def test_tints_go_with_shapes_in_the_share_asked_for():
    for bias in (0.0, 0.5, 0.9, 1.0):
        task = tinted_shapes.build(seed=0, bias=bias)
        for split in (task.train, task.validation, task.tests["clean"]):
            assert abs(((split.labels == 0) == (split.groups == 0)).float().mean().item() - bias) < 0.07
        for unbiased in (task.tests["shifted"], task.upper, task.oracle):
            tints = unbiased.groups[unbiased.labels == 0].bincount() / (unbiased.labels == 0).sum()
            assert (tints - 1 / 3).abs().max() < 0.1
    with pytest.raises(ValueError, match="`bias` must be in"):
        tinted_shapes.build(seed=0, bias=1.5)


def test_a_square_fills_its_frame_a_disc_does_not_and_the_ground_has_the_tint(monkeypatch):
    monkeypatch.setattr(tinted_shapes, "NOISE", 0.0)
    task = tinted_shapes.build(seed=0, bias=0.5)
    images, labels, tints = task.upper.images.int(), task.upper.labels, task.upper.groups
    ground = images[:, :, :1, :1]
    assert torch.equal(ground[:, :, 0, 0].argmax(1), tints)
    inside = (images != ground).any(1)
    filled = inside.sum((1, 2)) / (inside.any(1).sum(1) * inside.any(2).sum(1))
    assert torch.equal(filled == 1.0, labels == 1)
    assert filled[labels == 0].min() > 0.6
