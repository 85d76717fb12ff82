"""Where weights come from: a file, a folder, the hub's cache, and a hub that grants, refuses or is not there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import huggingface_hub.constants
import huggingface_hub.file_download
import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from stimage_qupath.errors import MissingPartError, UnknownModelError
from stimage_qupath.models.encoder_cards import registered_encoders
from stimage_qupath.models.foundation import build_network, open_registered
from stimage_qupath.models.weights import find_weights, on_this_machine, read_weights
from stimage_qupath.prediction.device import choose_device
from stimage_qupath.results import never_cancelled

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def tiny(name="phikon-v2", **changes):
    entry = registered_encoders()[name]
    network = dict(entry.network) | {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}
    return dataclasses.replace(entry, tile_px=32, width=24, network=network, **changes)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return build_network(tiny()).state_dict()


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Give this test an empty cache of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def offline(monkeypatch, hub_cache):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return hub_cache


def put_snapshot(cache, entry, state, *, ref=None):
    """Lay out the cache as a download leaves it."""
    folder = cache / f"models--{entry.hub.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    save_file(state, snapshot / "model.safetensors")
    if ref:
        (folder / "refs").mkdir()
        (folder / "refs" / ref).write_text(COMMIT)


def test_file_folder_and_hub_give_the_same_encoder(state, tmp_path, offline):
    entry = tiny(revision=COMMIT)
    put_snapshot(offline, entry, state)
    folder = tmp_path / "copied"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"hidden_size": 24}))
    torch.save(state, tmp_path / "weights.bin")
    torch.save({"state_dict": {f"module.{k}": t for k, t in state.items()}}, tmp_path / "wrapped.pth")
    local = [
        str(folder),
        str(folder / "model.safetensors"),
        str(tmp_path / "weights.bin"),
        str(tmp_path / "wrapped.pth"),
    ]
    encoders = [open_registered(entry, weights=weights) for weights in [None, *local]]
    assert len({encoder.card.weights_sha256 for encoder in encoders}) == 1
    assert len({encoder.fingerprint() for encoder in encoders}) == 1
    assert [encoder.card.revision for encoder in encoders] == [COMMIT, None, None, None, None]
    assert encoders[0].card.notes == ()


def test_an_unpinned_revision_is_resolved_and_noted(state, offline):
    entry = tiny(revision=None)
    assert not on_this_machine(entry)
    put_snapshot(offline, entry, state, ref="main")
    assert on_this_machine(entry)
    card = open_registered(entry).card
    assert card.revision == COMMIT
    assert card.notes == (f"the revision is not pinned: took commit {COMMIT}, which main was on that day",)
    assert open_registered(entry, revision=COMMIT).card.notes == ()


def test_doubtful_facts_are_noted_on_the_card(state, tmp_path):
    torch.save(state, tmp_path / "w.bin")
    card = open_registered(tiny(doubtful=("mpp: two tools disagree",)), weights=str(tmp_path / "w.bin")).card
    assert card.notes == ("not verified at the source: mpp: two tools disagree",)


def test_offline_without_a_copy_names_the_way_out(offline):
    with pytest.raises(
        MissingPartError, match=r"expected the weights of Phikon-v2, found none on this machine"
    ) as error:
        open_registered(tiny())
    revision = registered_encoders()["phikon-v2"].revision
    assert f"https://huggingface.co/owkin/phikon-v2/tree/{revision}" in str(error.value)
    assert "--encoder-weights" in str(error.value)
    assert error.value.exit_code == 3


def test_an_encoder_that_no_hub_has():
    with pytest.raises(MissingPartError, match=r"download one from https://github.com/Xiyue-Wang/TransPath and pass"):
        find_weights(registered_encoders()["ctranspath"], None)


def test_places_without_weights(tmp_path):
    with pytest.raises(MissingPartError, match=r"expected a checkpoint at .*nowhere.pth, found none"):
        open_registered(tiny(), weights=str(tmp_path / "nowhere.pth"))
    with pytest.raises(MissingPartError, match=r"expected model.safetensors of Phikon-v2 in .*, found no"):
        open_registered(tiny(), weights=str(tmp_path))


def test_the_folder_of_another_network(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_features": 1024}))
    with pytest.raises(UnknownModelError, match=r"weights of Phikon-v2, 24 wide, found a network 1024 wide"):
        open_registered(tiny(), weights=str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnknownModelError, match=r"expected JSON in .*config.json"):
        open_registered(tiny(), weights=str(tmp_path))


def test_keys_that_lack_that_are_too_many_or_of_another_shape(state, tmp_path):
    path = tmp_path / "w.safetensors"
    changed = dict(state)
    del changed["norm.bias"]
    changed["blocks.0.attn.extra"] = torch.ones(2)
    changed["cls_token"] = torch.ones(1, 1, 25)
    save_file(changed, path)
    with pytest.raises(UnknownModelError) as error:
        open_registered(tiny(), weights=str(path))
    text = str(error.value)
    assert "found 1 lacking: norm.bias; 1 unexpected: blocks.0.attn.extra; 1 of another shape: cls_token" in text
    save_file({key: state[key] for key in ("cls_token", "pos_embed")}, path)
    with pytest.raises(
        UnknownModelError, match=r"\d+ lacking: blocks.0.attn.proj.bias, .*, \.\.\.; pass the checkpoint"
    ):
        open_registered(tiny(), weights=str(path))


class Spy:
    """Would run on unpickling."""

    def __reduce__(self):
        return (Path.touch, (Path("spy-was-here"),))


def test_files_that_are_no_plain_tensors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in (("a.safetensors", b"{"), ("b.pth", b"not a pickle"), ("c.bin", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnknownModelError, match=f"plain tensors in .*{name}, found one that cannot be read"):
            read_weights(tmp_path / name)
    torch.save({"w": Spy()}, tmp_path / "d.pth")
    with pytest.raises(UnknownModelError, match="cannot be read"):
        read_weights(tmp_path / "d.pth")
    assert not (tmp_path / "spy-was-here").exists()
    torch.save({"model": {"a": 1}}, tmp_path / "e.pth")
    with pytest.raises(UnknownModelError, match=r"expected a checkpoint of named tensors in .*e.pth"):
        read_weights(tmp_path / "e.pth")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download of one file needs."""

    files: ClassVar[dict[str, bytes]] = {}
    token = None
    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append(self.path)
        content = self.files.get(self.path)
        if self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            content = b""
        elif content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            content = b""
        else:
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def hub(hub_cache, monkeypatch):
    """Run a hub on the loopback, and point the client at it."""
    monkeypatch.setattr(Hub, "files", {})
    monkeypatch.setattr(Hub, "asked", [])
    monkeypatch.setattr(Hub, "token", None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (huggingface_hub.constants, huggingface_hub.file_download):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_takes_the_pinned_revision_and_records_the_commit(state, hub):
    entry = tiny(revision="5" * 40)
    hub.files = {f"/{entry.hub}/resolve/{'5' * 40}/model.safetensors": save(state)}
    card = open_registered(entry).card
    assert card.revision == COMMIT  # the hub's word, not ours
    assert all(f"/resolve/{'5' * 40}/" in path for path in hub.asked)


def test_the_next_name_is_tried(state, hub, tmp_path):
    entry = tiny(revision=COMMIT, files=("model.safetensors", "pytorch_model.bin"))
    torch.save(state, tmp_path / "w.bin")
    hub.files = {f"/{entry.hub}/resolve/{COMMIT}/pytorch_model.bin": (tmp_path / "w.bin").read_bytes()}
    assert find_weights(entry, None).path.name == "pytorch_model.bin"
    hub.files = {}
    with pytest.raises(MissingPartError, match="found none on this machine and none to be had"):
        find_weights(tiny("midnight", revision=COMMIT), None)


def test_a_gated_repository_names_the_page_and_takes_a_token(state, hub, monkeypatch):
    entry = tiny("uni", revision=COMMIT, files=("model.safetensors",))
    hub.files = {f"/{entry.hub}/resolve/{COMMIT}/model.safetensors": save(state)}
    hub.token = "hf_of_this_test"
    with pytest.raises(
        MissingPartError, match=r"ask for access at https://huggingface.co/MahmoodLab/UNI, then set HF_TOKEN"
    ):
        find_weights(entry, None)
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    assert find_weights(entry, None).commit == COMMIT


@pytest.mark.parametrize("name", ["phikon-v2", "mobilenetv2"])
def test_batch_size_changes_nothing(name):
    entry = tiny() if name == "phikon-v2" else dataclasses.replace(registered_encoders()[name], tile_px=64)
    torch.manual_seed(1)
    encoder = open_registered(entry, pretrained=False)
    image = np.random.default_rng(2).integers(0, 256, (160, 170, 3), dtype=np.uint8)
    image.setflags(write=False)
    centres = np.random.default_rng(3).uniform(40, 120, (11, 2))
    one, many = (
        encoder.encode(image, centres, device=CPU, batch_size=size, cancelled=never_cancelled) for size in (1, 11)
    )
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-6 * np.abs(many).max())
    nowhere = encoder.encode(image, centres[:0], device=CPU, batch_size=4, cancelled=never_cancelled)
    assert nowhere.shape == (0, entry.width)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["phikon-v2", "mobilenetv2"])
def test_a_gpu_gives_the_features_of_the_cpu_whatever_the_batch_size(name):
    device = choose_device("auto")
    if device.type == "cpu":
        pytest.skip("there is no GPU")
    entry = tiny() if name == "phikon-v2" else dataclasses.replace(registered_encoders()[name], tile_px=64)
    torch.manual_seed(1)
    encoder = open_registered(entry, pretrained=False)
    image = np.random.default_rng(2).integers(0, 256, (160, 170, 3), dtype=np.uint8)
    centres = np.random.default_rng(3).uniform(40, 120, (11, 2))
    expected = encoder.encode(image, centres, device=CPU, batch_size=11, cancelled=never_cancelled)
    for size in (1, 3, 11):
        found = encoder.encode(image, centres, device=device, batch_size=size, cancelled=never_cancelled)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_half_precision_is_asked_for_recorded_and_close(state, tmp_path):
    torch.save(state, tmp_path / "w.bin")
    image = np.random.default_rng(2).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    centres = np.array([[30.0, 30.0], [27.0, 33.0]])
    full, half = (
        open_registered(tiny(), weights=str(tmp_path / "w.bin"), precision=precision)
        for precision in ("float32", "bfloat16")
    )
    a, b = (e.encode(image, centres, device=CPU, batch_size=2, cancelled=never_cancelled) for e in (full, half))
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()
    assert half.card.to_dict()["precision"] == "bfloat16"
    assert full.fingerprint() != half.fingerprint()
    assert full.card.weights_sha256 == half.card.weights_sha256
