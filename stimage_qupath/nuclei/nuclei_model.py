"""A nucleus model in a folder of our own form: ``model.json``, the card, beside ``weights.safetensors``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from stimage_qupath import __version__
from stimage_qupath.errors import UnknownModelError
from stimage_qupath.names import MODEL_JSON
from stimage_qupath.nuclei.stardist_network import StarDistConfig, StarDistNetwork

WEIGHTS_SAFETENSORS: Final = "weights.safetensors"
KIND: Final = "nuclei"
FORMAT: Final = 1
"""Changes when an older package could not read the folder."""
REQUIRED: Final = ("format", "kind", "name", "network", "thresholds", "mpp", "training", "files")


def bundled_folder() -> Path:
    """Return the folder of the H&E model that ships with the package."""
    return Path(str(resources.files("stimage_qupath") / "starter" / "nuclei"))


def is_nuclei_model(folder: Path) -> bool:
    """Return whether a folder has a card, and so is not in the layout of StarDist itself."""
    return (folder / MODEL_JSON).is_file()


def save_nuclei_model(folder: Path, network: StarDistNetwork, card: Mapping[str, Any]) -> dict[str, Any]:
    """Write card and weights into an existing folder, and return the whole card.

    Parameters
    ----------
    folder
        Where.
    network
        With its weights.
    card
        ``name``, ``thresholds`` (``prob``, ``nms``), ``mpp`` and ``training``, and whatever else is known of the model;
        the network's shape, the hashes and the version are added.
    """
    weights = save_tensors({name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()})
    (folder / WEIGHTS_SAFETENSORS).write_bytes(weights)
    full = {
        "format": FORMAT,
        "kind": KIND,
        **card,
        "network": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(network.config).items()},
        "package_version": __version__,
        "files": {WEIGHTS_SAFETENSORS: hashlib.sha256(weights).hexdigest()},
    }
    (folder / MODEL_JSON).write_text(json.dumps(full, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return full


def load_nuclei_model(folder: Path) -> tuple[StarDistNetwork, dict[str, Any]]:
    """Return the network in a folder, ready to predict, and its card.

    Raises
    ------
    UnknownModelError
        The folder is no nucleus model, is damaged, or of a newer format.
    """
    card = read_nuclei_card(folder)
    network = StarDistNetwork(_config(card["network"], folder))
    try:
        network.load_state_dict(_read_weights(folder / WEIGHTS_SAFETENSORS, card["files"].get(WEIGHTS_SAFETENSORS)))
    except RuntimeError as error:  # torch's word for tensors of another shape or name
        msg = f"expected weights of the network on the card in {folder}, found others; copy the whole model folder"
        raise UnknownModelError(msg) from error
    return network.requires_grad_(requires_grad=False).eval(), card


def read_nuclei_card(folder: Path) -> dict[str, Any]:
    """Return the card of a nucleus model; :class:`UnknownModelError` where there is none that fits."""
    path = folder / MODEL_JSON
    try:
        card = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"expected a nucleus model with a readable {MODEL_JSON} at {folder}, found {error}"
        raise UnknownModelError(msg) from error
    if not isinstance(card, dict) or card.get("kind") != KIND:
        msg = f"expected the card of a nucleus model in {path}, found another; pass a folder that train-nuclei has made"
        raise UnknownModelError(msg)
    missing = [key for key in REQUIRED if key not in card]
    if missing or card["format"] != FORMAT:
        found = f"no {', '.join(missing)}" if missing else f"format {card['format']}; update stimage-qupath"
        msg = f"expected a nucleus model of format {FORMAT} at {folder}, found {found}"
        raise UnknownModelError(msg)
    return card


def _config(values: Mapping[str, Any], folder: Path) -> StarDistConfig:
    try:
        known: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return StarDistConfig(**known)
    except TypeError as error:
        msg = f"expected the shape of a StarDist network on the card in {folder}, found {error}"
        raise UnknownModelError(msg) from error


def _read_weights(path: Path, expected_hash: str | None) -> dict[str, torch.Tensor]:
    """Read the weights, refusing bytes that are not those the card was written with."""
    try:
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != expected_hash:
            msg = f"the weights at {path} are damaged: expected SHA-256 {expected_hash}, found {found}; copy them again"
            raise UnknownModelError(msg)
        tensors: dict[str, torch.Tensor] = load_tensors(data)
    except (OSError, SafetensorError) as error:
        msg = f"expected weights at {path}, found {error}"
        raise UnknownModelError(msg) from error
    return tensors
