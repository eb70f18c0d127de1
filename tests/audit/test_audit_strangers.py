"""Files of strangers: links and paths that lead elsewhere, pictures and weights that are far larger than their files."""

import gc
import json
import struct
import time
import tracemalloc
import zipfile

import pytest
import torch
from torch import nn

pytest.importorskip("datasets")
pytest.importorskip("timm")
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from wdpurify.audit._backbone import open_model
from wdpurify.audit._sources import open_source, read_table
from wdpurify.audit._weights import load_weights

pytestmark = pytest.mark.usefixtures("quiet_datasets")


def _folder(tmp_path):
    """A folder of pictures of two classes, beside a picture that is nobody's business."""
    for number in range(6):
        place = tmp_path / "pictures" / "train" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(place / f"{number}.png")
    (tmp_path / "private").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "private" / "9.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize(
    "target",
    ["../../../private/9.png", "../../../private", "..", "link.png", "nowhere.png"],
    ids=["a file elsewhere", "a folder elsewhere", "a loop of folders", "itself", "nothing"],
)
def test_a_link_that_leads_out_of_the_folder_or_in_circles_is_refused_by_name(target, tmp_path):
    folder = _folder(tmp_path)
    (folder / "train" / "a" / "link.png").symlink_to(target)
    with pytest.raises(ValueError, match=r"no links but those to its own files, got .*link\.png\. Put a copy of its target"):
        open_source(str(folder), "train")


def test_a_link_to_a_file_of_the_folder_and_a_link_that_is_the_folder_are_followed_and_hidden_ones_never_read(tmp_path):
    folder = _folder(tmp_path)
    (folder / ".git").symlink_to("../private")
    (folder / "train" / ".hidden").mkdir()
    (folder / "train" / ".hidden" / "8.png").symlink_to("../../../private/9.png")
    (folder / "train" / "a" / "link.png").symlink_to("../b/1.png")
    (tmp_path / "short").symlink_to(folder)
    assert len(read_table("task", open_source(str(tmp_path / "short"), "train"), ["label"]).inputs) == 7


def test_a_snapshot_of_the_hugging_face_cache_is_read_and_only_its_own_blobs(tmp_path):
    plain = _folder(tmp_path)
    cache = tmp_path / "datasets--faces"
    snapshot = cache / "snapshots" / "1a2b"
    (cache / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in plain.rglob("*") if path.is_file())):
        blob = file.rename(cache / "blobs" / str(number))
        link = snapshot / file.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    for part in (snapshot, snapshot / "train"):
        assert len(read_table("task", open_source(str(part), "train"), ["label"]).inputs) == 6
    (snapshot / "train" / "a" / "more.png").symlink_to(tmp_path / "private" / "9.png")
    with pytest.raises(ValueError, match=r"more\.png"):
        open_source(str(snapshot), "train")


def test_a_folder_of_that_name_alone_is_no_cache(tmp_path):
    folder = _folder(tmp_path)
    (tmp_path / "snapshots").mkdir()
    folder = folder.rename(tmp_path / "snapshots" / "pictures")
    (folder / "train" / "a" / "more.png").symlink_to(tmp_path / "private" / "9.png")
    with pytest.raises(ValueError, match=r"no links but those to its own files, got .*more\.png"):
        open_source(str(folder), "train")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["../../private/9.png", "http://127.0.0.1:9/9.png"])
def test_metadata_that_leads_out_of_the_folder_is_refused_by_name(name, tmp_path):
    folder = _folder(tmp_path)
    (folder / "train" / "metadata.csv").write_text(f"file_name,hair\na/0.png,x\n{name},y\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"pictures cannot be read: .*{name}"):
        open_source(str(folder), "train")
    gc.collect()  # what datasets leaves open of a broken file


@pytest.mark.parametrize(
    "name",
    [
        "{}/private/9.png",
        "http://127.0.0.1:9/9.png",
        "zip://9.png::http://127.0.0.1:9/9.zip",
        "http://127.0.0.1:9/9.png::{}/own/faces.parquet",
    ],
)
def test_a_table_whose_pictures_lie_elsewhere_is_refused_before_they_are_read(name, tmp_path, monkeypatch):
    _folder(tmp_path)
    name = name.format(tmp_path)
    file = tmp_path / "own" / "faces.parquet"
    file.parent.mkdir()
    monkeypatch.chdir(file.parent)
    whole = {"image": [Image.new("RGB", (8, 8))] * 2, "label": ["a", "b"]}
    datasets.Dataset.from_dict(whole).to_parquet(file)
    table = pq.read_table(file)
    cells = pa.array([table["image"][0].as_py(), {"bytes": None, "path": name}], type=table["image"].type)
    pq.write_table(table.set_column(table.column_names.index("image"), "image", cells), file)
    with pytest.raises(ValueError, match=f"'image' must name files in .*own, got {name}. Leave the row out"):
        read_table("task", open_source(str(file), "train"), ["label"])


@pytest.mark.parametrize(
    ("kind", "nested"),
    [
        (datasets.Sequence(datasets.Image()), lambda cell: [cell]),
        (datasets.Sequence(datasets.Image(), length=1), lambda cell: [cell]),
        ({"front": datasets.Image()}, lambda cell: {"front": cell}),
        (datasets.Sequence({"front": datasets.Image()}), lambda cell: {"front": [cell]}),
    ],
    ids=["list", "list of one length", "structure", "list of structures"],
)
def test_pictures_in_lists_and_structures_must_lie_in_the_folder_too(kind, nested, tmp_path):
    _folder(tmp_path)
    file = tmp_path / "own" / "faces.parquet"
    file.parent.mkdir()
    schema = datasets.Features({"image": kind, "label": datasets.Value("string")}).arrow_schema
    for place, refused in ((file.parent, False), (tmp_path / "private", True)):
        Image.new("RGB", (8, 8)).save(place / "9.png")
        cells = [nested({"bytes": None, "path": str(place / "9.png")}), None]
        pq.write_table(pa.table({"image": cells, "label": ["a", "b"]}, schema=schema), file)
        if refused:
            with pytest.raises(ValueError, match=r"'image' must name files in .*own, got .*private/9\.png"):
                open_source(str(file), "train")
        else:
            assert len(open_source(str(file), "train")) == 2


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_picture_that_pillow_warns_of_is_refused_by_name(tmp_path, monkeypatch):
    folder = _folder(tmp_path)
    Image.new("1", (20, 20)).save(folder / "train" / "b" / "3.png")
    for limit in (300, 100):  # Pillow warns of the first, and raises an error for the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(
            ValueError, match=r"cannot be read in row \d \(.*3\.png\): Image size \(400 pixels\) .*, or set `.*PIXELS = None`"
        ):
            read_table("task", open_source(str(folder), "train"), ["label"])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert len(read_table("task", open_source(str(folder), "train"), ["label"], image_size=8).inputs) == 6


def _header(entries, length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)


def _entry(start=0, end=16, kind="F32", shape=(2, 2)):
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"abc",
        _header({"weight": _entry()}, 10**6),
        _header({"weight": _entry()}, 10**18),
        _header({"weight": _entry(), "bias": _entry(8, 16, shape=(2,))}),
        _header({"weight": _entry(0, 10**15)}),
        _header({"weight": _entry(shape=(2**40, 2**40))}),
        _header({"weight": _entry(kind="Q17")}),
        _header(b"[" * 1_000_000),
    ],
    ids=["short", "longer", "10^18", "overlap", "outside", "overflow", "dtype", "deep"],
)
def test_a_hostile_header_of_safetensors_is_refused_in_little_time_and_memory(content, tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    begun = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"`weights` .*weights\.safetensors must hold a state dict .*SafetensorError"):
        load_weights(nn.Linear(2, 2), file)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert time.perf_counter() - begun < 30


def test_a_hostile_folder_of_timm_is_refused_by_name(tmp_path):
    config = {"architecture": "test_resnet", "num_classes": 0, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(_header({}, 10**18))
    with pytest.raises(ValueError, match=r"`model` 'local-dir:.*' cannot be made by timm: .*header too large"):
        open_model(f"local-dir:{tmp_path}")


def test_weights_that_are_packed_are_refused_before_they_are_unpacked(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "packed.pt", "w") as packed:
        for name in plain.namelist():
            large = bytes(50_000_000) if name.endswith("data/0") else b""
            packed.writestr(name, plain.read(name) + large, zipfile.ZIP_DEFLATED if large else zipfile.ZIP_STORED)
    with pytest.raises(ValueError, match=r"packed\.pt must hold a state dict .* plain/data/0 is compressed"):
        load_weights(nn.Linear(2, 2), tmp_path / "packed.pt")


@pytest.mark.filterwarnings("ignore")  # of torch, about layouts that are prototypes
@pytest.mark.parametrize(
    "weight",
    [lambda: torch.eye(2).to_sparse(), lambda: torch.empty(2, 2, device="meta")],
    ids=["sparse", "meta"],
)
def test_tensors_that_cannot_be_copied_into_a_model_are_named(weight, tmp_path):
    torch.save({"weight": weight(), "bias": torch.ones(2)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"must hold dense tensors alone.* no such tensors are weight"):
        load_weights(nn.Linear(2, 2), tmp_path / "weights.pt")
