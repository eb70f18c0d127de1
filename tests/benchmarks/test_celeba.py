"""CelebA as auxiliary faces: its two layouts, labels that belong to their images, and copies that are refused by name."""

import re
import shutil
from collections import Counter

import datasets
import pytest
import torch
from face_folders import celeba_folder, celeba_parquet, celeba_rows, empty
from PIL import Image
from purifybench.faces import celeba


def _attributes(change):
    def apply(folder):
        path = folder / "list_attr_celeba.txt"
        path.write_text(change(path.read_text()))

    return apply


@pytest.mark.parametrize("build", [celeba_folder, celeba_parquet])
def test_celeba_gives_rows_with_exactly_one_hair_colour(tmp_path, build):
    folder = build(tmp_path / "celeba")
    images, groups = celeba.auxiliary_faces(folder, label="hair", rows=20, seed=0, size=16)
    assert images.shape == (20, 3, 16, 16)
    assert set(groups) == {"black", "blond", "brown", "gray"}
    _, everyone = celeba.auxiliary_faces(folder, label="hair", rows=28, seed=0, size=16)
    assert Counter(everyone) == {"black": 7, "blond": 7, "brown": 7, "gray": 7}
    with pytest.raises(ValueError, match="29 rows asked for, but 28 of 40 images with attributes can be used"):
        celeba.auxiliary_faces(folder, label="hair", rows=29, seed=0, size=16)
    _, smiling = celeba.auxiliary_faces(folder, label="smiling", rows=40, seed=0, size=16)
    assert smiling == [number % 3 == 0 for number in range(40)]
    assert all(isinstance(value, bool) for value in smiling)


@pytest.mark.parametrize("build", [celeba_folder, celeba_parquet])
def test_celebas_labels_belong_to_its_images_and_only_those_drawn_are_decoded(tmp_path, build, monkeypatch):
    folder = build(tmp_path / "celeba")
    everyone, labels = celeba.auxiliary_faces(folder, label="hair", rows=28, seed=0, size=16)
    known = {image.numpy().tobytes(): label for image, label in zip(everyone, labels, strict=True)}
    decoded = []
    decode = datasets.Image.decode_example
    monkeypatch.setattr(
        datasets.Image, "decode_example", lambda *given, **options: decoded.append(1) or decode(*given, **options)
    )
    images, groups = celeba.auxiliary_faces(folder, label="hair", rows=12, seed=3, size=16)
    assert [known[image.numpy().tobytes()] for image in images] == groups
    assert len(decoded) == 12
    again, _ = celeba.auxiliary_faces(folder, label="hair", rows=12, seed=3, size=16)
    other, _ = celeba.auxiliary_faces(folder, label="hair", rows=12, seed=4, size=16)
    assert torch.equal(images, again)
    assert not torch.equal(images, other)


def test_celeba_is_found_in_its_parent_and_decodes_no_other_image(tmp_path):
    folder = celeba_folder(tmp_path / "celeba")
    hair = [sum(values[:4]) for values in celeba_rows()]
    for number, colours in enumerate(hair, 1):
        if colours != 1:
            (folder / "img_align_celeba" / f"{number:06}.jpg").write_bytes(b"")  # would fail if it were opened
    images, _ = celeba.auxiliary_faces(tmp_path, label="hair", rows=28, seed=0, size=16)
    assert len(images) == 28
    with pytest.raises(ValueError, match="cannot be read as an image"):
        celeba.auxiliary_faces(tmp_path, label="smiling", rows=40, seed=0, size=16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "no CelebA found"),
        (lambda folder: shutil.rmtree(folder / "img_align_celeba"), "attributes, but no folder img_align_celeba"),
        (
            lambda folder: (folder / "list_attr_celeba.txt").unlink(),
            "40 files in img_align_celeba, but no list_attr_celeba.txt",
        ),
        (
            lambda folder: empty(folder / "img_align_celeba"),
            "none of the 40 images that list_attr_celeba.txt names is among 0",
        ),
        (_attributes(lambda text: ""), "must open with the number of rows and the names of 40 attributes"),
        (_attributes(lambda text: text.replace("Smiling", "Smile")), "must open with the number of rows"),
        (_attributes(lambda text: text[:1000]), "must have 40 rows, as its first line says, got"),
        (_attributes(lambda text: text[:-6]), "row 40: must be a file name and 7 times 1 or -1"),
    ],
)
def test_wrong_copies_of_celeba_are_named(tmp_path, change, message):
    folder = celeba_folder(tmp_path / "celeba")
    change(folder)
    with pytest.raises(ValueError, match=re.escape(message)):
        celeba.auxiliary_faces(folder, label="hair", rows=20, seed=0, size=16)


def test_labels_stay_with_their_images_where_some_are_missing(tmp_path):
    folder = celeba_folder(tmp_path)
    for number in (1, 3):
        (folder / "img_align_celeba" / f"{number:06}.jpg").unlink()
    _, smiling = celeba.auxiliary_faces(folder, label="smiling", rows=38, seed=0, size=16)
    assert smiling == [number % 3 == 0 for number in range(40) if number not in (0, 2)]


def test_labels_that_are_never_drawn_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none of 2 rows drawn has the hair label (\w+, )+\w+\n"):
        celeba.auxiliary_faces(celeba_folder(tmp_path), label="hair", rows=2, seed=0, size=16)


def test_parquet_files_of_something_else_are_named(tmp_path):
    table = datasets.Dataset.from_dict({"image": [Image.new("RGB", (4, 4))], "Smiling": [True]})
    table.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="parquet files without Black_Hair, Blond_Hair, Brown_Hair, Gray_Hair; there is image"):
        celeba.auxiliary_faces(tmp_path, label="hair", rows=1, seed=0, size=16)
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="parquet files that cannot be opened"):
        celeba.auxiliary_faces(tmp_path, label="hair", rows=1, seed=0, size=16)
