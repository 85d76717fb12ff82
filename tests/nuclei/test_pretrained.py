"""StarDist's public model: found in the cache as every version of Keras lays it out, or fetched from a server."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stimage_qupath import cli
from stimage_qupath.errors import MissingPartError
from stimage_qupath.nuclei import pretrained
from stimage_qupath.nuclei.pretrained import PRETRAINED, VERSATILE_HE, Release, cache_folder, pretrained_folder

FILES = {"config.json": b"{}", "thresholds.json": b'{"prob": 0.5}', "weights_best.h5": b"weights"}


@pytest.fixture(autouse=True)
def keras_home(tmp_path, monkeypatch):
    """Keep every test off the real cache."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras" / "models" / "StarDist2D" / PRETRAINED


class Quiet(SimpleHTTPRequestHandler):
    """A handler that does not print."""

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def publish(tmp_path):
    """Return a function that serves an archive of members as the release does."""
    folder = tmp_path / "served" / "releases" / "download" / "v0.1"
    folder.mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served")))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def serve(members, *, sha256=None):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        (folder / "python_2D_versatile_he.zip").write_bytes(content.getvalue())
        address = f"http://127.0.0.1:{server.server_port}/releases/download/v0.1/python_2D_versatile_he.zip"
        return Release(address, sha256 or hashlib.sha256(content.getvalue()).hexdigest())

    yield serve
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("below", ["", f"{PRETRAINED}_extracted", f"{PRETRAINED}/{PRETRAINED}"])
def test_the_model_is_found_wherever_keras_unpacked_it(keras_home, below):
    folder = keras_home / below
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(FILES["config.json"])
    with pytest.raises(MissingPartError):  # a model without its weights is none
        pretrained_folder()
    (folder / "weights_best.h5").write_bytes(b"weights")
    assert pretrained_folder() == folder


def test_without_keras_home_it_is_in_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_folder() == tmp_path / ".keras" / "models" / "StarDist2D"


def test_what_is_missing_is_named_with_address_and_folder(keras_home):
    with pytest.raises(MissingPartError) as caught:
        pretrained_folder()
    message = str(caught.value)
    assert f"expected StarDist's {PRETRAINED} in {keras_home}, found none" in message
    assert VERSATILE_HE.address in message
    assert "--download" in message


def test_a_download_on_request_is_kept(keras_home, publish):
    release = publish({f"{PRETRAINED}/{name}": data for name, data in FILES.items()})
    assert pretrained_folder(download=True, release=release) == keras_home
    assert {path.name: path.read_bytes() for path in keras_home.iterdir()} == FILES
    assert [path.name for path in keras_home.parent.iterdir()] == [PRETRAINED]
    gone = Release("http://127.0.0.1:9/gone.zip", release.sha256)
    assert pretrained_folder(download=True, release=gone) == keras_home  # it is there: nobody asks the network


def test_paths_in_an_archive_lead_nowhere(keras_home, publish, tmp_path):
    odd = {"../../evil.txt": b"x", "/etc/evil": b"x", "a\\..\\..\\config.json": b"{}", "../../../weights_best.h5": b"w"}
    assert pretrained_folder(download=True, release=publish(odd)) == keras_home
    assert {path.name for path in keras_home.iterdir()} == {"config.json", "weights_best.h5"}
    assert not list(tmp_path.rglob("evil*"))


def test_another_archive_than_the_published_one_is_refused(keras_home, publish):
    release = publish(FILES, sha256="0" * 64)
    with pytest.raises(MissingPartError, match="expected an archive with SHA-256 0000"):
        pretrained_folder(download=True, release=release)
    assert not keras_home.exists()
    assert list(keras_home.parent.iterdir()) == []


def test_a_page_instead_of_an_archive_is_refused(keras_home, publish, tmp_path):
    release = publish({})
    (page,) = (tmp_path / "served").rglob("*.zip")
    page.write_bytes(b"<html>log in first</html>")
    with pytest.raises(MissingPartError, match="expected a zip archive with a StarDist model"):
        pretrained_folder(
            download=True, release=Release(release.address, hashlib.sha256(page.read_bytes()).hexdigest())
        )
    with pytest.raises(MissingPartError, match=r"expected to download http.*found: .*404"):
        pretrained_folder(download=True, release=Release(release.address + "x", release.sha256))


def test_an_endless_answer_is_cut_short(publish, monkeypatch, keras_home):
    monkeypatch.setattr(pretrained, "LIMIT_BYTES", 50)
    with pytest.raises(MissingPartError, match="expected at most 50 bytes"):
        pretrained_folder(download=True, release=publish(FILES))
    assert not keras_home.exists()


def test_without_a_network_the_command_ends_with_3(keras_home, tmp_path, tissue_slide, monkeypatch, capsys):
    defaults = {"download": False, "release": Release("http://127.0.0.1:9/x", "")}
    monkeypatch.setattr(pretrained.pretrained_folder, "__kwdefaults__", defaults)
    arguments = ["segment", str(tissue_slide.path), "--output", str(tmp_path / "out"), "--segmenter"]
    for segmenter in ("stardist", f"stardist:{PRETRAINED}"):
        for more in ([], ["--download"]):
            assert cli.run([*arguments, segmenter, *more]) == 3
            said = capsys.readouterr().err
            assert "http://127.0.0.1:9/x" in said
            assert str(keras_home) in said
    assert not (tmp_path / "out").exists()
