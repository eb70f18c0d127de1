"""Models by name: weights of a file, callables of a module, and what is said where they do not fit."""

import json

import pytest
import torch
from torch import nn

pytest.importorskip("datasets")
pytest.importorskip("sklearn")
pytest.importorskip("timm")
pytest.importorskip("tyro")
import datasets
import safetensors.torch
import timm

from wdpurify.audit import __main__ as command
from wdpurify.audit import features
from wdpurify.audit._backbone import Backbone, open_model

MODULE = """
from torch import nn

class Nets:
    @staticmethod
    def tiny(width=4, name="x"):
        layers = [nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2)]
        return nn.Sequential(*layers)

def nothing():
    return None

number = 3
"""


@pytest.fixture(autouse=True)
def _own_module(tmp_path, monkeypatch):
    (tmp_path / "nets_of_the_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def tiny():
    return open_model("nets_of_the_test:Nets.tiny", options={"width": 5})


def _same(model, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["torch", "safetensors", "checkpoint", "parallel", "lightning"])
def test_weights_are_read_from_files_of_every_usual_kind(kind, tiny, tmp_path):
    file = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    state = tiny.state_dict()
    if kind == "safetensors":
        safetensors.torch.save_file(state, file)
    else:
        prefixed = {f"module.{name}": value for name, value in state.items()}
        around = {f"net.model.{name}": value for name, value in state.items()} | {"criterion.weight": torch.ones(2)}
        kinds = {"torch": state, "checkpoint": {"state_dict": state, "epoch": 3}, "parallel": prefixed}
        torch.save((kinds | {"lightning": {"state_dict": around, "epoch": 3}})[kind], file)
    read = open_model("nets_of_the_test:Nets.tiny", weights=file, options={"width": 5})
    assert _same(read, tiny)
    assert not _same(open_model("nets_of_the_test:Nets.tiny", options={"width": 5}), tiny)


def test_a_timm_models_classifier_is_left_out_however_many_classes_it_has(tmp_path):
    trained = timm.create_model("test_resnet", num_classes=7)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    read = open_model("test_resnet", weights=tmp_path / "weights.pt")
    assert isinstance(read, Backbone)
    assert _same(read.network, trained)
    assert read.image_size == 160
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in trained.state_dict().items()}}, tmp_path / "weights.ckpt"
    )
    assert _same(open_model("test_resnet", weights=tmp_path / "weights.ckpt").network, trained)


class RunsCode:
    def __reduce__(self):
        return print, ("code was run",)


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": RunsCode()}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="must hold a state dict and nothing that runs code"):
        open_model("test_resnet", weights=tmp_path / "weights.pt")
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (
            lambda net: {"0.bias": net["0.bias"]},
            r"do not fit the model. missing: 0.weight, 4.bias, 4.weight. Name the backbone",
        ),
        (lambda net: net | {"5\x1b[31m": net["0.bias"]}, r"do not fit the model. unknown to the model: 5\\x1b\[31m. Name"),
        (lambda net: net | {f"x{n}": net["0.bias"] for n in range(8)}, "x0, x1, x2, x3, x4 and 3 more"),
        (
            lambda net: {f"model.{key}": net[key] for key in net if key != "4.bias"},
            "missing: 0.bias, 0.weight, 4.bias, 4.weight;",
        ),
        (
            lambda net: {f"{name}.{key}": net[key] for name in ("model", "ema") for key in net},
            "missing: 0.bias, 0.weight, 4.bias",
        ),
        (lambda net: net | {f"ema.{key}": net[key] for key in net}, "unknown to the model: ema.0.bias, ema.0.weight"),
        (
            lambda net: {f"1{key}": net[key] for key in net},
            "missing: 0.bias, 0.weight, 4.bias, 4.weight; unknown to the model: 10.bias",
        ),
        (lambda net: net | {"4.bias": torch.zeros(9)}, r"of another shape: 4.bias \(9,\) for \(2,\). Name the backbone"),
        (lambda net: {"weights": net, "epoch": 1}, "must hold dense tensors alone.* no such tensors are weights, epoch"),
        (lambda net: 3, "must hold a state dict"),
        (None, "there is no such file"),
    ],
)
def test_weights_that_do_not_fit_are_named_with_the_remedy(saved, message, tiny, tmp_path):
    if saved is not None:
        torch.save(saved(dict(tiny.state_dict())), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=message):
        open_model("nets_of_the_test:Nets.tiny", weights=tmp_path / "weights.pt", options={"width": 5})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:net", "cannot be imported, as package.module:callable: No module named 'no_such_module'"),
        ("nets_of_the_test:net", "cannot be imported.* has no attribute 'net'"),
        (":net", "cannot be imported"),
        ("nets_of_the_test:number", "must be something to call, got int"),
        ("nets_of_the_test:nothing", "must return a torch.nn.Module, got NoneType"),
    ],
)
def test_a_callable_that_is_none_is_named(name, message):
    with pytest.raises(ValueError, match=message):
        open_model(name)


def _faces(tmp_path):
    rows = datasets.Dataset.from_dict(
        {
            "image": [torch.rand(3, 8, 8).mul(255).byte().permute(1, 2, 0).numpy() for _ in range(60)],
            "label": ["calm", "smiling"] * 30,
            "hair": ["black", "black", "blond", "blond"] * 15,
        },
        features=datasets.Features(
            {"image": datasets.Image(), "label": datasets.Value("string"), "hair": datasets.Value("string")}
        ),
    )
    datasets.disable_progress_bars()
    rows.to_parquet(tmp_path / "faces.parquet")
    datasets.enable_progress_bars()
    return str(tmp_path / "faces.parquet")


def test_the_audit_takes_a_callable_with_options_and_weights(tiny, tmp_path, capsys):
    torch.save(tiny.state_dict(), tmp_path / "tiny.pt")
    arguments = ["--task", _faces(tmp_path), "--columns", "hair", "--repeats", "2", "--steps", "1", "--permutations", "2"]
    model = ["--backbone", "nets_of_the_test:Nets.tiny", "--backbone-options", "width=5", "name=y"]
    command.main([*arguments, *model, "--weights", str(tmp_path / "tiny.pt"), "--layer", "4", "--out", str(tmp_path / "out")])
    settings = json.loads((tmp_path / "out" / "audit.json").read_text())["settings"]
    assert (settings["model"], settings["layer"], settings["images"]) == ("Sequential", "4", "3 x 8 x 8")
    with pytest.raises(SystemExit, match=r"wdpurify.audit: .* do not fit the model. of another shape"):
        command.main([*arguments, *model[:2], "--weights", str(tmp_path / "tiny.pt")])
    with pytest.raises(SystemExit, match=r"wdpurify.audit: .*unexpected keyword argument 'depth'"):
        command.main([*arguments, *model[:2], "--backbone-options", "depth=2"])


def test_saved_networks_are_drawn_side_by_side(tiny, tmp_path, capsys):
    torch.save(tiny.state_dict(), tmp_path / "plain.pt")
    safetensors.torch.save_file(nn.Sequential(*tiny).state_dict(), tmp_path / "purified.safetensors")
    arguments = ["--rows", _faces(tmp_path), "--nuisance-column", "hair", "--out", str(tmp_path / "new" / "features.png")]
    arguments += ["--backbone", "nets_of_the_test:Nets.tiny", "--backbone-options", "width=5", "--projection", "pca"]
    both = [f"plain={tmp_path / 'plain.pt'}", f"purified={tmp_path / 'purified.safetensors'}"]
    features.main([*arguments, "--permutations", "2", "--checkpoints", *both])
    out = capsys.readouterr().out
    assert out.startswith("plain: hair ")
    assert "purified: hair " in out
    assert (tmp_path / "new" / "features.png").stat().st_size > 1000
    for given, message in ((["plain"], "takes name=value"), (both[:1] * 2, "names 'plain' twice"), ([], "needs at least one")):
        with pytest.raises(SystemExit, match=rf"wdpurify.audit.features: --checkpoints {message}"):
            features.main([*arguments, "--checkpoints", *given])


@pytest.mark.parametrize(("run", "name"), [(command.main, "wdpurify.audit"), (features.main, "wdpurify.audit.features")])
def test_the_help_says_how_the_command_is_started(run, name, capsys):
    with pytest.raises(SystemExit):
        run(["--help"])
    assert f"usage: python -m {name} [-h]" in capsys.readouterr().out
