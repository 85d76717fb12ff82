"""Segmenters by name."""

from __future__ import annotations

from pathlib import Path

import torch

from stimage_qupath.config import STARDIST
from stimage_qupath.nuclei.classical import ClassicalSegmenter
from stimage_qupath.nuclei.segmenter import Segmenter


def choose_segmenter(name: str, *, device: torch.device) -> Segmenter:
    """Return the segmenter that ``--segmenter`` names.

    Parameters
    ----------
    name
        ``classical``; ``stardist`` for the public H&E model where StarDist keeps it; or ``stardist:FOLDER``.
    device
        Where a network runs.

    Raises
    ------
    MissingPartError
        The public model is not on this machine.
    UnknownModelError
        The folder is not a StarDist model.
    """
    if not name.startswith(STARDIST):
        return ClassicalSegmenter()
    from stimage_qupath.nuclei.stardist_segmenter import StarDistSegmenter, pretrained_folder

    _, _, folder = name.partition(":")
    return StarDistSegmenter.load(Path(folder) if folder else pretrained_folder(), device=device)
