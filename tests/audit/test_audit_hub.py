"""A hub that is out of reach is said within seconds, with what to do; and nobody is asked where there is no need."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("datasets")
pytest.importorskip("sklearn")
pytest.importorskip("timm")
import datasets
import huggingface_hub
import timm
import torch
from torch import nn

from wdpurify.audit import _hub
from wdpurify.audit._backbone import Backbone, open_model
from wdpurify.audit._hub import check_hub
from wdpurify.audit._sources import open_source


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False)
    yield
    huggingface_hub.utils.close_session()


@pytest.fixture
def unreachable(monkeypatch):
    """Where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.fixture
def asked(monkeypatch):
    """A hub that answers; the paths that it was asked for."""
    paths = []

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            paths.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield paths
    server.shutdown()
    thread.join()
    server.server_close()


def test_published_weights_out_of_reach_are_said_at_once_with_what_to_do(unreachable):
    started = time.monotonic()
    with pytest.raises(
        ValueError, match=r"'resnet18.a1_in1k': its published weights cannot be had.*`--weights FILE`.*HF_ENDPOINT"
    ):
        Backbone("resnet18.a1_in1k")
    with pytest.raises(ValueError, match="'hf-hub:nobody/net@v1': its published weights cannot be had"):
        Backbone("hf-hub:nobody/net@v1")
    assert time.monotonic() - started < 10


def test_a_data_set_out_of_reach_is_said_at_once_with_what_to_do(unreachable, tmp_path):
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"nobody/faces is no local data set and cannot be had.*name a local folder or file"):
        open_source("nobody/faces:some", "train")
    assert time.monotonic() - started < 10


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(_hub, "PATIENCE", 0.2)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(
            ValueError, match=r"faces cannot be had, as the hub at http://127.0.0.1.* cannot be reached .*: wait"
        ):
            check_hub("faces", "wait")
    assert time.monotonic() - started < 5


def test_any_answer_is_one(asked):
    check_hub("faces", "wait")
    assert asked == ["/"]


def test_in_offline_mode_nobody_is_asked(unreachable, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *given: {"train": given})
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    assert open_source("nobody/faces", "train") == ("nobody/faces", None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    check_hub("faces", "wait")


def test_without_published_weights_or_with_a_file_nobody_is_asked(asked, tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pt")
    assert isinstance(open_model("test_resnet", pretrained=False), nn.Module)
    assert isinstance(open_model("test_resnet", weights=tmp_path / "weights.pt"), nn.Module)
    assert asked == []


def test_what_is_cached_is_left_to_the_libraries(asked, tmp_path, monkeypatch):
    folder = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "model.safetensors").write_bytes(b"")
    made = []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *_, **given: made.append(given) or create("test_resnet", num_classes=0))
    Backbone("test_resnet.r160_in1k")
    assert made == [{"pretrained": True, "num_classes": 0}]
    (tmp_path / "hub" / "models--nobody--net" / "snapshots" / "abc").mkdir(parents=True)
    (tmp_path / "hub" / "models--nobody--net" / "snapshots" / "abc" / "config.json").write_text("{}")
    Backbone("hf-hub:nobody/net@abc")
    (tmp_path / "datasets" / "nobody___face-set_m").mkdir(parents=True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *given: {"train": given})
    assert open_source("nobody/Face-SetM:some", "train") == ("nobody/Face-SetM", "some")
    assert asked == []
