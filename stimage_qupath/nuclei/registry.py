"""Segmenters by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from stimage_qupath.config import HE, STARDIST
from stimage_qupath.nuclei.classical import ClassicalSegmenter
from stimage_qupath.nuclei.segmenter import Segmenter


def choose_segmenter(name: str, *, device: torch.device, download: bool = False, bfloat16: bool = False) -> Segmenter:
    """Return the segmenter that ``--segmenter`` names.

    Parameters
    ----------
    name
        ``classical``; ``he`` for the network that ships with the package; ``stardist`` or ``stardist:2D_versatile_he``
        for the public H&E model where StarDist keeps it; or ``stardist:FOLDER`` for such a model, or one of
        ``train-nuclei``.
    device
        Where a network runs.
    download
        Whether the public model may be fetched where it is missing.
    bfloat16
        Whether a network may convolve in bfloat16.

    Raises
    ------
    MissingPartError
        The public model is not on this machine.
    UnknownModelError
        The folder is not a StarDist model.
    """
    if name != HE and not name.startswith(STARDIST):
        return ClassicalSegmenter()
    from stimage_qupath.nuclei.nuclei_model import bundled_folder
    from stimage_qupath.nuclei.pretrained import PRETRAINED, pretrained_folder
    from stimage_qupath.nuclei.stardist_segmenter import StarDistSegmenter

    if name == HE:
        return replace(StarDistSegmenter.load(bundled_folder(), device=device), name=HE, bfloat16=bfloat16)
    _, _, folder = name.partition(":")
    is_public = folder in ("", PRETRAINED)
    place = pretrained_folder(download=download) if is_public else Path(folder)
    return replace(StarDistSegmenter.load(place, device=device), bfloat16=bfloat16)
