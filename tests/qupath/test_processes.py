"""Which modules live on which side of the border."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from stimage_qupath.errors import MissingPartError, StimageError, UsageError
from stimage_qupath.qupath.client import BridgeClient

HEAVY = {"torch", "timm", "captum", "stimage_qupath.models", "stimage_qupath.nuclei", "stimage_qupath.prediction"}


@pytest.mark.flow
def test_the_predicting_side_loads_no_java() -> None:
    code = "import sys, stimage_qupath.pipeline.project, stimage_qupath.cli; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not {name for name in loaded if name.split(".")[0] in {"paquo", "jpype", "_jpype"}}
    assert not {
        name for name in loaded if name.startswith(("stimage_qupath.qupath.project", "stimage_qupath.qupath.bridge"))
    }


def test_the_bridge_loads_no_torch() -> None:
    with BridgeClient() as client:
        assert not HEAVY & set(client.ask("modules"))


@pytest.mark.qupath
def test_the_bridge_with_java_loads_no_torch(tmp_path: Path) -> None:
    with BridgeClient() as client:
        client.ask("create", project=str(tmp_path / "p"), images=[])
        loaded = set(client.ask("modules"))
    assert {"paquo", "jpype", "stimage_qupath.qupath.project.store"} <= loaded
    assert not HEAVY & loaded


def test_answers_of_the_bridge_without_java(tmp_path: Path) -> None:
    with BridgeClient(qupath=tmp_path) as client:
        assert not client.has_qupath()
        with pytest.raises(MissingPartError, match="expected a QuPath installation, found none; install QuPath"):
            client.ask("start")
        with pytest.raises(UsageError, match=r"expected an operation out of find, .*, found 'fly'"):
            client.ask("fly")
        with pytest.raises(UsageError, match="expected the arguments of find, found others"):
            client.ask("find", wings=2)
        assert not client.has_qupath()


def test_a_request_in_a_file(tmp_path: Path) -> None:
    request = tmp_path / "request é.json"
    request.write_text(json.dumps({"op": "modules"}), encoding="utf-8")
    command = [sys.executable, "-X", "utf8", "-m", "stimage_qupath.qupath.bridge", str(request)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    (line,) = done.stdout.splitlines()
    assert "json" in json.loads(line)["result"]


def test_a_bridge_that_dies_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(
            "import sys; sys.stderr.write('last words'); import os; os._exit(9)"
        )
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]))
        with BridgeClient() as client, pytest.raises(StimageError, match=r"ended with code 9 .*last words"):
            client.ask("modules")
