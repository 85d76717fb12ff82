"""Weights that are not those their card was written with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stimage_qupath.errors import StimageError
from stimage_qupath.models.checkpoint import load_model, model_folder
from stimage_qupath.models.recorded_encoder import load_recorded
from stimage_qupath.nuclei.nuclei_model import bundled_folder, load_nuclei_model

HEADS, TRUNK = "heads.safetensors", "mobilenet_v2_trunk.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a copy of the starter model."""
    return Path(shutil.copytree(model_folder("starter"), tmp_path / "model"))


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lying_header(path: Path) -> None:
    """Let the header say that it is longer than any file."""
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


def another(path: Path) -> None:
    """Put the weights of another model there, whole as they are."""
    shutil.copy(bundled_folder() / "weights.safetensors", path)


DAMAGES = [flip, cut, empty, lying_header, another]


def refusal(load: Callable[[], Any]) -> StimageError:
    with pytest.raises(StimageError) as caught:
        load()
    assert caught.value.exit_code in (2, 3)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_heads(fault: Any, model: Path, damage: Callable[[Path], None]) -> None:
    fault.states(f"weights of the heads: {damage.__name__}", expected="exit 2 or 3, one sentence")
    damage(model / HEADS)
    error = refusal(lambda: load_model(str(model)))
    assert "damaged: expected SHA-256" in str(error)
    fault.saw(f"exit {error.exit_code}: the weights are damaged: expected SHA-256 ...")


@pytest.mark.parametrize("damage", DAMAGES)
def test_trunk_of_the_encoder(fault: Any, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    fault.states(f"weights of the encoder: {damage.__name__}", expected="exit 2 or 3, one sentence")
    trunk = Path(shutil.copy(model_folder("starter") / TRUNK, tmp_path))
    damage(trunk)
    record = json.loads((model_folder("starter") / "model.json").read_text(encoding="utf-8"))["encoder"]
    error = refusal(lambda: load_recorded(record | {"weights": str(trunk)}))
    fault.saw(f"exit {error.exit_code}: {str(error).replace(str(trunk), trunk.name)}")


@pytest.mark.parametrize("damage", [*DAMAGES[:-1], pytest.param(None, id="another")])
def test_nuclei_network(fault: Any, tmp_path: Path, damage: Callable[[Path], None] | None) -> None:
    name = "another" if damage is None else damage.__name__
    fault.states(f"weights of the nuclei network: {name}", expected="exit 2 or 3, one sentence")
    folder = Path(shutil.copytree(bundled_folder(), tmp_path / "nuclei"))
    if damage is None:
        shutil.copy(model_folder("starter") / HEADS, folder / "weights.safetensors")
    else:
        damage(folder / "weights.safetensors")
    error = refusal(lambda: load_nuclei_model(folder))
    fault.saw(f"exit {error.exit_code}: the weights are damaged: expected SHA-256 ...")


def forge(model: Path, name: str, value: float) -> None:
    """Put a number into a tensor of the heads and the right hash into the card."""
    tensors = load_file(model / HEADS)
    tensors[name].reshape(-1)[0] = value
    save_file(tensors, model / HEADS)
    card = json.loads((model / "model.json").read_text(encoding="utf-8"))
    card["files"][HEADS] = hashlib.sha256((model / HEADS).read_bytes()).hexdigest()
    (model / "model.json").write_text(json.dumps(card), encoding="utf-8")


FORGED = {
    "projection": np.nan,
    "loading": np.inf,
    "bias": np.nan,
    "log_total_count": -np.inf,
    "feature_mean": np.nan,
    "feature_sd": np.nan,
    "outlier_components": np.nan,
    "outlier_scale": np.nan,
    "recalibration_log_temperature": np.nan,
    "high_threshold": np.inf,
}


@pytest.mark.parametrize("name", FORGED)
def test_numbers_that_are_none_behind_a_right_hash(fault: Any, model: Path, name: str) -> None:
    fault.states(f"{FORGED[name]} in the heads' {name}, hash as on the card", expected="exit 2, one sentence")
    forge(model, name, FORGED[name])
    error = refusal(lambda: load_model(str(model)))
    fault.saw(f"exit {error.exit_code}: {str(error).replace(str(model), 'model')}")
