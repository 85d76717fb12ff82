"""``baselines.safetensors`` in a model folder: what the model has to beat, without its training data.

A model folder loads without it; then an evaluation has fewer baselines. The card holds its hash, so that a file that
was changed is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from stimage_qupath.errors import UnknownModelError

BASELINES_SAFETENSORS: Final = "baselines.safetensors"
CARD_KEY: Final = "baselines"
_FACTS: Final = "facts"


def write_baselines(folder: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the file and return what the card says of it under :data:`CARD_KEY`.

    Parameters
    ----------
    folder
        Model folder.
    arrays, facts
        Arrays, and plain values that belong to them.
    """
    tensors = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    data = save_tensors(tensors, metadata={_FACTS: json.dumps(dict(facts))})
    (folder / BASELINES_SAFETENSORS).write_bytes(data)
    return {"file": BASELINES_SAFETENSORS, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def read_baselines(folder: Path, card: Mapping[str, Any]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """Return arrays and facts, or None where the model was made without them.

    Parameters
    ----------
    folder
        Model folder.
    card
        Of the model.

    Raises
    ------
    UnknownModelError
        The card names the file, and it is missing or another one.
    """
    record = card.get(CARD_KEY)
    if record is None:
        return None
    path = folder / BASELINES_SAFETENSORS
    try:
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != record["sha256"]:
            msg = f"the baselines at {path} are damaged: expected SHA-256 {record['sha256']}, found {found}"
            raise UnknownModelError(msg)
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()[_FACTS])
        return load_tensors(data), facts
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        msg = f"expected the baselines that the card names at {path}, found {error}; copy the model folder again"
        raise UnknownModelError(msg) from error
