"""Annotated images in, a folder with a nucleus network out, with its figure on images that it did not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from stimage_qupath.config import BUNDLED, TrainNucleiSettings
from stimage_qupath.errors import UnknownModelError, UsageError
from stimage_qupath.export.partial_folder import PartialFolder
from stimage_qupath.names import MODEL_JSON
from stimage_qupath.nuclei.nuclei_model import bundled_folder, load_nuclei_model, save_nuclei_model
from stimage_qupath.nuclei.stardist_network import StarDistConfig, StarDistNetwork
from stimage_qupath.nuclei.stardist_segmenter import DEFAULT_THRESHOLDS, MPP, StarDistSegmenter
from stimage_qupath.prediction.device import choose_device
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress
from stimage_qupath.training.nuclei_dataset import NucleiImage, read_nuclei_dataset, split_images
from stimage_qupath.training.nuclei_fit import NucleiFit, NucleiFitSettings, fit_nuclei, new_network
from stimage_qupath.training.nuclei_self_training import self_trained

NETWORK: Final = StarDistConfig(
    n_rays=32, n_channel_in=3, grid=(2, 2), unet_n_depth=3, unet_n_filter_base=24, net_conv_after_unet=64
)
"""A StarDist network that a laptop trains and runs: 0.8 million weights."""


def run(
    settings: TrainNucleiSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
    *,
    network: StarDistConfig = NETWORK,
    fit: NucleiFitSettings | None = None,
) -> dict[str, Any]:
    """Train a nucleus network and write its folder.

    Parameters
    ----------
    settings
        What to train on and how.
    on_progress, cancelled
        Progress and cancellation.
    network
        Shape of the network, where training begins from nothing.
    fit
        Further settings of the training; epochs, batch size, seed and threads are those of ``settings``.

    Returns
    -------
    dict
        The card as written.

    Raises
    ------
    UsageError, CalibrationError, ImageError, OutputError, CancelledError
        Before anything stands under the final name.
    """
    device = choose_device(settings.device)
    with PartialFolder(settings.output, force=settings.force, why_keep=_why_keep) as folder:
        start = _start(settings, network)
        images = read_nuclei_dataset(settings.dataset, mpp=MPP)
        _require_teacher(images, settings)
        parts = split_images(images, validation_fraction=settings.validation_fraction, seed=settings.seed)
        training, validation = (
            _completed(part, start, device, adds=adds) for part, adds in zip(parts, (True, False), strict=True)
        )
        chosen = _fit_settings(settings, fit or NucleiFitSettings())
        fitted = fit_nuclei(
            start,
            training,
            validation,
            settings=chosen,
            device=device,
            on_progress=on_progress,
            cancelled=cancelled,
        )
        card = save_nuclei_model(folder.path, fitted.network, _card(settings, chosen, fitted, training, validation))
        folder.publish()
    return card


def _why_keep(folder: Path) -> str | None:
    """Only a model folder may be replaced."""
    return None if (folder / MODEL_JSON).is_file() or not any(folder.iterdir()) else f"no {MODEL_JSON} in it"


def _start(settings: TrainNucleiSettings, config: StarDistConfig) -> StarDistNetwork:
    """Return the network that training begins with."""
    if settings.start_from is None:
        return new_network(config, seed=settings.seed)
    folder = bundled_folder() if settings.start_from == BUNDLED else Path(settings.start_from)
    network, card = load_nuclei_model(folder)
    if float(card["mpp"]) != MPP:
        msg = f"expected a model of {MPP} um per pixel to start from, found {card['mpp']} in {folder}"
        raise UnknownModelError(msg)
    return network


def _fit_settings(settings: TrainNucleiSettings, base: NucleiFitSettings) -> NucleiFitSettings:
    """Return how to train: as the settings say, and where they say nothing as ``base`` does."""
    return replace(
        base,
        epochs=settings.epochs,
        steps=settings.steps or base.steps,
        learning_rate=settings.learning_rate or base.learning_rate,
        bfloat16=settings.precision == "bfloat16",
        batch_size=settings.batch_size,
        seed=settings.seed,
        threads=settings.threads,
    )


def _require_teacher(images: Sequence[NucleiImage], settings: TrainNucleiSettings) -> None:
    """Refuse images without all their nuclei where there is no model to find them."""
    lacking = [image.name for image in images if image.is_incomplete]
    if lacking and settings.start_from is None:
        msg = (
            f"expected a model to find the nuclei that the labels of {', '.join(lacking[:3])} lack, found none; pass "
            "--start-from, or outline all nuclei and leave the column incomplete empty"
        )
        raise UsageError(msg)


def _completed(
    images: Sequence[NucleiImage], start: StarDistNetwork, device: torch.device, *, adds: bool
) -> list[NucleiImage]:
    """Return images, those whose labels are incomplete with what the first network sees in them."""
    prob, nms = DEFAULT_THRESHOLDS["prob"], DEFAULT_THRESHOLDS["nms"]
    teacher = StarDistSegmenter(start.to(device), prob, nms, device)
    return [self_trained(image, teacher, adds=adds) if image.is_incomplete else image for image in images]


def _card(
    settings: TrainNucleiSettings,
    chosen: NucleiFitSettings,
    fitted: NucleiFit,
    training: Sequence[NucleiImage],
    validation: Sequence[NucleiImage],
) -> dict[str, Any]:
    """Return what the card says of how the model was made and how good it is."""
    return {
        "name": settings.name or settings.output.name,
        "mpp": MPP,
        "thresholds": fitted.thresholds,
        "thresholds_choice": "highest AP at IoU 0.5 on the validation images",
        "training": {
            "licences": sorted({image.licence for image in (*training, *validation)}),
            "nuclei": sum(image.nuclei for image in training),
            "images": [_record(image) for image in training],
            "started_from": settings.start_from or "random weights",
            "seed": settings.seed,
            "epochs": chosen.epochs,
            "steps": chosen.steps,
            "batch_size": chosen.batch_size,
            "learning_rate": chosen.learning_rate,
            "precision": settings.precision,
            "offset_px": round(fitted.offset_px, 3),
            "kept_epoch": fitted.kept_epoch + 1,
        },
        "figures": {
            "validation": {
                "ap50": round(fitted.validation_ap, 4),
                "note": "epoch and thresholds were chosen on these images; new images score lower",
                "nuclei": sum(image.nuclei for image in validation),
                "images": [_record(image) for image in validation],
            }
        },
    }


def _record(image: NucleiImage) -> dict[str, Any]:
    return {"name": image.name, "nuclei": image.nuclei, "licence": image.licence, "sha256": image.sha256}
