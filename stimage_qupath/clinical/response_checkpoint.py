"""A response model on disk: ``model.json`` says what it is, ``weights.safetensors`` holds its numbers; never pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stimage_qupath import __version__
from stimage_qupath.clinical.alignment import LEVELS, Reference
from stimage_qupath.clinical.transfer import TransferModel
from stimage_qupath.errors import UnknownModelError
from stimage_qupath.names import MODEL_JSON

FORMAT: Final = "stimage-qupath drug response 1"
WEIGHTS: Final = "weights.safetensors"


def save_model(model: TransferModel, folder: Path) -> None:
    """Write a model into an empty folder.

    Parameters
    ----------
    model
        To be written.
    folder
        An existing folder.
    """
    weights = save(
        {
            "coefficients": np.ascontiguousarray(model.coefficients),
            "intercept": np.array([model.intercept]),
            "quantiles": np.ascontiguousarray(model.reference.quantiles),
            "mean": np.ascontiguousarray(model.reference.mean),
            "sd": np.ascontiguousarray(model.reference.sd),
        }
    )
    record = {
        "format": FORMAT,
        "version": __version__,
        "kind": model.kind,
        "higher": model.higher,
        "transform": model.transform,
        "genes": list(model.reference.genes),
        "sha256": {WEIGHTS: hashlib.sha256(weights).hexdigest()},
        "card": dict(model.card),
    }
    (folder / WEIGHTS).write_bytes(weights)
    (folder / MODEL_JSON).write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")


def load_model(folder: Path) -> TransferModel:
    """Read a model.

    Raises
    ------
    UnknownModelError
        The folder is none, is another kind of model, or its files do not belong together.
    """
    record = _record(folder)
    try:
        data = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(data).hexdigest() != record["sha256"][WEIGHTS]:
            msg = f"expected the weights that {MODEL_JSON} of {folder} names, found others; copy the folder again"
            raise UnknownModelError(msg)
        arrays = load(data)
        reference = Reference(tuple(record["genes"]), arrays["quantiles"], arrays["mean"], arrays["sd"])
        if reference.quantiles.shape != (len(reference.genes), len(LEVELS)):
            msg = f"expected {len(LEVELS)} quantiles a gene in {folder}, found {reference.quantiles.shape}"
            raise UnknownModelError(msg)
        return TransferModel(
            kind=record["kind"],
            higher=record["higher"],
            transform=record["transform"],
            reference=reference,
            intercept=float(arrays["intercept"][0]),
            coefficients=arrays["coefficients"],
            card=record["card"],
        )
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        msg = f"expected a whole drug-response model in {folder}, found: {error!r}; save it again (--save-model)"
        raise UnknownModelError(msg) from error


def _record(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_JSON
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"expected a drug-response model in {folder}, found no readable {MODEL_JSON}; pass a --save-model folder"
        raise UnknownModelError(msg) from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        msg = f"expected a drug-response model in {folder}, found another {MODEL_JSON}; pass a --save-model folder"
        raise UnknownModelError(msg)
    return record
