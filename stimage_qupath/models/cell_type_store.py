"""A cell-type model in a folder: ``model.json``, the card, beside ``heads.safetensors``. Never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from safetensors.numpy import save as save_tensors

from stimage_qupath import __version__
from stimage_qupath.errors import UnknownModelError
from stimage_qupath.models.cell_type import CellTypeEnsemble, SoftmaxHeads
from stimage_qupath.models.checked_weights import read_checked
from stimage_qupath.names import HEADS_SAFETENSORS, MODEL_JSON

KIND: Final = "cell types"
FORMAT: Final = 1
"""Changes when an older package could not read the folder."""
REQUIRED: Final = ("format", "kind", "name", "level", "classes", "features", "temperature", "training", "files")
Level = Literal["nucleus", "neighbourhood", "region"]
"""What the model speaks of: the nucleus itself, the mixture of types around it, or the tissue that it lies in."""
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
_TENSORS: Final = ("feature_mean", "feature_sd", "weight", "bias")


@dataclass(frozen=True, slots=True)
class CellTypeModel:
    """A loaded model.

    Attributes
    ----------
    card
        Everything ``model.json`` says.
    sha256
        Of ``model.json``, which holds the hash of the weights.
    ensemble
        The heads.
    """

    card: Mapping[str, Any]
    sha256: str
    ensemble: CellTypeEnsemble

    @property
    def name(self) -> str:
        """Name on the card."""
        return str(self.card["name"])

    @property
    def level(self) -> Level:
        """What the model speaks of."""
        level: Level = self.card["level"]
        return level

    @property
    def colors(self) -> dict[str, tuple[int, int, int]]:
        """Colours that the classes had in the training files."""
        return {name: (int(c[0]), int(c[1]), int(c[2])) for name, c in self.card.get("colors", {}).items()}


def save_cell_types(folder: Path, ensemble: CellTypeEnsemble, card: Mapping[str, Any]) -> dict[str, Any]:
    """Write card and weights into an existing folder, and return the whole card.

    Parameters
    ----------
    folder
        Where.
    ensemble
        With its weights; classes and temperature on the card are its own.
    card
        ``name``, ``level``, ``features`` (of ``NucleusFeatures.to_dict``) and ``training``, and what else is known.
    """
    tensors = {name: np.ascontiguousarray(getattr(ensemble.heads, name)) for name in _TENSORS}
    weights = save_tensors(tensors)
    (folder / HEADS_SAFETENSORS).write_bytes(weights)
    full = {
        "format": FORMAT,
        "kind": KIND,
        **card,
        "classes": list(ensemble.classes),
        "temperature": ensemble.heads.temperature,
        "package_version": __version__,
        "files": {HEADS_SAFETENSORS: hashlib.sha256(weights).hexdigest()},
    }
    (folder / MODEL_JSON).write_text(json.dumps(full, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return full


def load_cell_types(folder: Path) -> CellTypeModel:
    """Return the model in a folder.

    Raises
    ------
    UnknownModelError
        The folder is no cell-type model, is damaged, or of a newer format.
    """
    path = folder / MODEL_JSON
    try:
        text = path.read_bytes()
        card = json.loads(text)
    except (OSError, ValueError) as error:
        msg = f"expected a cell-type model with a readable {MODEL_JSON} at {folder}, found {error}"
        raise UnknownModelError(msg) from error
    _check(card, folder)
    tensors = read_checked(folder / HEADS_SAFETENSORS, card["files"].get(HEADS_SAFETENSORS))
    try:
        heads = SoftmaxHeads(**{name: tensors[name] for name in _TENSORS}, temperature=float(card["temperature"]))
        ensemble = CellTypeEnsemble(tuple(card["classes"]), heads)
    except (KeyError, ValueError) as error:
        msg = f"the cell-type model at {folder} is damaged: {error}; copy the whole folder again"
        raise UnknownModelError(msg) from error
    return CellTypeModel(card, hashlib.sha256(text).hexdigest(), ensemble)


def _check(card: Any, folder: Path) -> None:
    """Refuse the card of another kind of model, of another format, or without what is needed."""
    if not isinstance(card, dict) or card.get("kind") != KIND:
        msg = f"expected a cell-type model at {folder}, found another; pass a folder that train-cell-types has made"
        raise UnknownModelError(msg)
    missing = [key for key in REQUIRED if key not in card]
    if missing or card["format"] != FORMAT:
        found = f"no {', '.join(missing)}" if missing else f"format {card['format']}; update stimage-qupath"
        msg = f"expected a cell-type model of format {FORMAT} at {folder}, found {found}"
        raise UnknownModelError(msg)
    if card["level"] not in LEVELS:
        msg = f"expected a model of level {', '.join(LEVELS)} at {folder}, found '{card['level']}'"
        raise UnknownModelError(msg)
