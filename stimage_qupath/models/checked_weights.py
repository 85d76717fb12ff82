"""Weights of a model folder, held to the hash in its card."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from stimage_qupath.errors import UnknownModelError


def read_checked(path: Path, expected_hash: str | None) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file, refusing bytes that are not those the card was written with.

    Raises
    ------
    UnknownModelError
        The file is missing, is none of safetensors, or has another SHA-256.
    """
    try:
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != expected_hash:
            msg = f"the weights at {path} are damaged: expected SHA-256 {expected_hash}, found {found}; copy them again"
            raise UnknownModelError(msg)
        tensors: dict[str, NDArray[Any]] = load_tensors(data)
    except (OSError, SafetensorError) as error:
        msg = f"expected weights at {path}, found {error}"
        raise UnknownModelError(msg) from error
    return tensors
