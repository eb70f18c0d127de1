"""The audit as a command, on local files, end to end; and what it says when something is wrong."""

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("datasets")
pytest.importorskip("sklearn")
pytest.importorskip("timm")
pytest.importorskip("tyro")
import datasets
import timm
import torch
from PIL import Image

from wdpurify.audit.__main__ import main
from wdpurify.audit._sources import open_source, read_table

pytestmark = pytest.mark.usefixtures("quiet_datasets")


def _rows(count, seed=0):
    rng = np.random.default_rng(seed)
    kind, tint = np.arange(count) % 2, rng.integers(2, size=count)
    pixels = rng.integers(0, 120, (count, 16, 16, 3))
    pixels[:, :8] += 100 * kind[:, None, None, None]
    pixels[..., 0] += 30 * tint[:, None, None]
    pictures = [Image.fromarray(image.astype(np.uint8)) for image in pixels]
    names = [("calm", "smiling")[value] for value in kind]
    return datasets.Dataset.from_dict({"image": pictures, "label": names, "tint": [int(value) for value in tint]})


FAST = ["--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--repeats", "2", "--steps", "2"]
FAST += ["--permutations", "2", "--max-rows", "60"]


def test_parquet_files_folders_of_images_and_saved_sets_are_audited_and_files_written(tmp_path, capsys):
    _rows(60).to_parquet(tmp_path / "faces.parquet")
    _rows(60, 1).save_to_disk(tmp_path / "saved")
    for number, row in enumerate(_rows(24, 2)):
        folder = tmp_path / "elsewhere" / "test" / row["label"]
        folder.mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / f"{number}.png")
    sources = ["--task", str(tmp_path / "saved"), "--auxiliary", str(tmp_path / "faces.parquet")]
    evaluation = ["--evaluation", str(tmp_path / "elsewhere"), "--out", str(tmp_path / "out")]
    main([*sources, *evaluation, "--columns", "tint", "label", *FAST])
    assert "separate data" in capsys.readouterr().out
    read = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert {entry["column"]["name"] for entry in read["columns"]} == {"tint", "label"}
    assert read["settings"]["evaluation rows"] == 24
    assert (tmp_path / "out" / "audit.md").read_text().startswith("| label | verdict |")
    assert (tmp_path / "out" / "audit.png").exists()
    page = (tmp_path / "out" / "audit.html").read_text()
    assert f"python -m wdpurify.audit --task {tmp_path / 'saved'} --auxiliary" in page
    assert "test_resnet" in page


@pytest.mark.parametrize("command", ["audit", "audit.features"])
def test_names_of_any_script_are_read_shown_and_written_in_a_locale_of_ascii(command, tmp_path):
    hair = "Haarfärbung 髪"
    rows = _rows(60)
    rows = rows.add_column(hair, [("blönd", "schwarz")[value] for value in rows["tint"]])
    folder = tmp_path / "gesichtér"
    folder.mkdir()
    rows.to_parquet(folder / "rows.parquet")
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), folder / "plain.pt")
    options = ["--task", folder / "rows.parquet", "--columns", hair, *FAST, "--out", folder / "out"]
    if command == "audit.features":
        options = [
            "--rows",
            folder / "rows.parquet",
            "--nuisance-column",
            hair,
            "--backbone",
            "test_resnet",
            "--image-size",
            "32",
        ]
        options += ["--checkpoints", f"plaín={folder / 'plain.pt'}", "--projection", "pca", "--permutations", "2"]
        options += ["--out", folder / "out" / "features.png"]
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "200"}
    ascii_only |= {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONIOENCODING": ""}
    started = [sys.executable, "-m", f"wdpurify.{command}", *map(str, options)]
    run = subprocess.run(started, env=ascii_only, capture_output=True, text=True, encoding="ascii", check=False)
    assert run.returncode == 0, run.stderr
    assert r"Haarf\xe4rbung \u9aea" in run.stdout
    if command == "audit":
        for file in ("audit.json", "audit.md", "audit.html"):
            assert hair in (folder / "out" / file).read_text(encoding="utf-8")
    else:
        assert r"pla\xedn: Haar" in run.stdout
        assert (folder / "out" / "features.png").stat().st_size > 1000


def test_a_source_may_name_its_split(tmp_path):
    datasets.DatasetDict({"train": _rows(4), "test": _rows(6)}).save_to_disk(tmp_path / "both")
    assert len(open_source(str(tmp_path / "both"), "train")) == 4
    assert len(open_source(f"{tmp_path / 'both'}#test", "train")) == 6
    with pytest.raises(ValueError, match=r"has no split 'dev'; it has train, test: write .*both#train"):
        open_source(str(tmp_path / "both"), "dev")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--columns", "hat"], "`auxiliary` has no column 'hat'; it has 'image', 'label', 'tint'"),
        (["--task-label", "mood"], "`task` has no column 'mood'"),
        (["--image-column", "face"], "`auxiliary` has no column 'face'"),
        (["--backbone", "no_such_net"], "a name that timm knows, got 'no_such_net'"),
        (["--backbone", "resnet18.no_such_tag"], "'resnet18.no_such_tag' cannot be made by timm: Invalid pretrained tag"),
        (["--task", "{folder}/notes.txt"], "must be a .parquet, .csv, .json or .jsonl file"),
        (["--task", "{folder}/faces.parkett.parquet"], "faces.parkett.parquet: there is no such file"),
        (["--task", "{folder}/nowhere/else/at/all"], "is no local data set and cannot be had from the hub"),
        (["--backbone-options", "width"], "--backbone-options takes name=value, got 'width'"),
        (["--layer", "no.such.layer"], "no.such.layer"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, changes, message):
    _rows(40).to_parquet(tmp_path / "faces.parquet")
    (tmp_path / "notes.txt").write_text("no rows")
    path = str(tmp_path / "faces.parquet")
    changes = [change.format(folder=tmp_path) for change in changes]
    with pytest.raises(SystemExit, match=re.escape("wdpurify.audit: ") + ".*" + re.escape(message)):
        main(["--task", path, "--auxiliary", path, "--columns", "tint", *FAST, *changes])


def test_weights_out_of_reach_are_named(tmp_path, monkeypatch):
    _rows(40).to_parquet(tmp_path / "faces.parquet")
    path = str(tmp_path / "faces.parquet")

    def unreachable(*_, **__):
        raise FileNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("timm.create_model", unreachable)
    with pytest.raises(SystemExit, match=r"published weights cannot be had \(no connection\): give the weights as a file"):
        main(["--task", path, "--auxiliary", path, "--columns", "tint", "--backbone", "test_resnet"])


def _spoilt(folder, spoil):
    """A folder of pictures, one of them spoilt; its name."""
    rows = _rows(24)
    for number, row in enumerate(rows):
        place = folder / "train" / row["label"]
        place.mkdir(parents=True, exist_ok=True)
        row["image"].save(place / f"{number:02}.png")
    name = next((folder / "train").rglob("13.png"))
    spoil(name)
    return name


def _cut(name):
    name.write_bytes(name.read_bytes()[:200])


def _enlarge(name):
    Image.new("L", (20_000, 20_000)).save(name)  # 400 million pixels in a small file


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("spoil", [_cut, _enlarge])
def test_an_image_that_cannot_be_read_is_named_by_row_and_file(spoil, tmp_path):
    _spoilt(tmp_path / "pictures", spoil)
    said = _refusal(
        ["--task", str(tmp_path / "pictures"), "--auxiliary", str(tmp_path / "pictures"), "--columns", "label", *FAST]
    )
    gc.collect()  # what Pillow leaves open of a broken file
    assert re.search(r"`auxiliary` cannot be read in row \d+ \(.*13\.png\): ", said)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broken_image_beside_another_column_of_images_is_named_without_escape_sequences(tmp_path):
    rows = _rows(12)
    names = []
    for number, row in enumerate(rows):
        names.append(str(tmp_path / f"{number:02}\x1b[31m.png"))
        row["image"].save(names[-1])
    files = datasets.Features({"image": datasets.Image(), "mask": datasets.Image(), "label": datasets.Value("string")})
    content = {"image": names, "mask": [None] * 12, "label": rows["label"]}
    _cut(Path(names[7]))
    broken = datasets.Dataset.from_dict(content, features=files)
    said = ""
    try:
        read_table("task", broken, ["label"])
    except ValueError as error:
        said = str(error)
    gc.collect()
    assert re.search(r"`task` cannot be read in row 7 \(.*07\\x1b\[31m\.png\): ", said)


def _refusal(arguments):
    try:
        main(arguments)
    except SystemExit as error:
        return str(error)
    raise AssertionError("it was not refused")
