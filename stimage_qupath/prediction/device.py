"""Where networks and heads run."""

from __future__ import annotations

import torch

from stimage_qupath.errors import MissingPartError


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    MissingPartError
        The device was asked for by name and is not there.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, available in here.items() if available))
    if not here[name]:
        msg = f"expected a {name} device, found none that torch can use; pass --device auto"
        raise MissingPartError(msg)
    return torch.device(name)


def default_batch_size(device: torch.device) -> int:
    """Return tiles a forward pass: enough to fill the device, little enough for its memory."""
    return 64 if device.type == "cpu" else 256
