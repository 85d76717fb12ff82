"""Labelled images in, a folder with a cell-type model out, with its figures on places that it did not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.config.train_cell_types import Level, TrainCellTypesSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.export.partial_folder import PartialFolder
from stimage_qupath.models.cell_type_store import save_cell_types
from stimage_qupath.models.encoders import COLOUR, CONTEXT, NUCLEUS, load_encoder
from stimage_qupath.models.recorded_encoder import encoder_record
from stimage_qupath.names import CELL_TYPE_CARD, MODEL_JSON, type_column, type_measurement, type_quantity
from stimage_qupath.prediction.cache import choose_cache
from stimage_qupath.prediction.device import choose_device, default_batch_size
from stimage_qupath.prediction.nucleus_features import NucleusFeatures
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress
from stimage_qupath.training.cell_types_dataset import Encoding, read_labelled_images
from stimage_qupath.training.cell_types_fit import CellTypeFit, FitSettings, LabelledPlaces, fit_cell_types
from stimage_qupath.training.labelled_images import LabelledImage, join_images
from stimage_qupath.training.xenium_labels import read_reference
from stimage_qupath.validation.classification import classification_figures
from stimage_qupath.validation.shares import share_figures

ENCODERS: Final[dict[Level, str]] = {
    "nucleus": NUCLEUS,
    "neighbourhood": f"{CONTEXT}+{COLOUR}",
    "region": f"{CONTEXT}+{COLOUR}",
}
"""Chosen by blocks and sections left out of training, see the README."""
MEANING: Final[dict[Level, str]] = {
    "nucleus": "probability of each type for the nucleus itself",
    "neighbourhood": "neighbourhood composition: shares of types in a spot around the nucleus, not its own type",
    "region": "probability that the nucleus lies in tissue of each class",
}


def run(
    settings: TrainCellTypesSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Train a cell-type model and write its folder.

    Parameters
    ----------
    settings
        What to train on and how.
    on_progress, cancelled
        Progress and cancellation.

    Returns
    -------
    dict
        The card as written.

    Raises
    ------
    StimageError
        Of the kind that fits; nothing stands under the final name then.
    """
    with PartialFolder(settings.output, force=settings.force, why_keep=_why_keep) as folder:
        reference = None
        if settings.reference is not None:
            reference = read_reference(settings.reference, settings.reference_column)
        features = _features(settings)
        device = choose_device(settings.device)
        encoding = Encoding(
            features=features,
            device=device,
            batch_size=settings.batch_size or default_batch_size(device),
            views=settings.views_of_image,
            seed=settings.seed,
            cache=choose_cache(settings.cache, off=settings.no_cache),
        )
        images = read_labelled_images(
            settings.dataset,
            encoding,
            level=settings.level,
            reference=reference,
            on_progress=on_progress,
            cancelled=cancelled,
        )
        places, classes, split = join_images(images, level=settings.level)
        _check_columns(settings.level, classes)
        fit = fit_cell_types(
            places,
            classes,
            _how(settings),
            on_fit=lambda done, total: on_progress("fit", done, total, ""),
            cancelled=cancelled,
        )
        card = save_cell_types(
            folder.path, fit.ensemble, _card(settings, features, images, places, split=split, fit=fit)
        )
        folder.publish()
    return card


def _why_keep(folder: Path) -> str | None:
    """Only a model folder may be replaced."""
    return None if (folder / MODEL_JSON).is_file() or not any(folder.iterdir()) else f"no {MODEL_JSON} in it"


def _features(settings: TrainCellTypesSettings) -> NucleusFeatures:
    """Return what is looked at."""
    looks = settings.looks
    if looks is None:
        looks = ("appearance", "shape") if settings.level == "nucleus" else ()
    name = settings.encoder or ENCODERS[settings.level]
    encoder = None
    if name != "none":
        weights = None if settings.encoder_weights is None else str(settings.encoder_weights)
        encoder = load_encoder(name, weights=weights, precision=settings.precision)
    return NucleusFeatures(encoder, appearance="appearance" in looks, shape="shape" in looks)


def _how(settings: TrainCellTypesSettings) -> FitSettings:
    """Return how heads are fitted; the shares of a mixture are what is learnt, so that they are not balanced."""
    balanced = settings.balanced and settings.level != "neighbourhood"
    return FitSettings(members=settings.members, balanced=balanced, prior=settings.prior, seed=settings.seed)


def _check_columns(level: Level, classes: Sequence[str]) -> None:
    """Refuse classes that the tables of a run could not tell apart."""
    quantity = type_quantity(level)
    columns = [type_column(type_measurement(level, name, quantity)) for name in classes]
    doubled = [name for name, column in zip(classes, columns, strict=True) if columns.count(column) > 1]
    if doubled:
        msg = f"expected classes that differ in letters or digits, found {' and '.join(doubled)}; rename one"
        raise UsageError(msg)


def _card(
    settings: TrainCellTypesSettings,
    features: NucleusFeatures,
    images: Sequence[LabelledImage],
    places: LabelledPlaces,
    *,
    split: str,
    fit: CellTypeFit,
) -> dict[str, Any]:
    """Return what the card says of how the model was made and how good it is."""
    looked = features.to_dict()
    if features.encoder is not None:
        weights = None if settings.encoder_weights is None else str(settings.encoder_weights)
        looked["encoder"] = encoder_record(features.encoder, weights)
    shares = np.average(places.target, axis=0, weights=places.weight)
    classes = fit.ensemble.classes
    return {
        "name": settings.name or settings.output.name,
        "level": settings.level,
        "meaning": MEANING[settings.level],
        "note": CELL_TYPE_CARD,
        "features": looked,
        "colors": {name: list(c) for image in images for name, c in image.labels.colors.items() if name in classes},
        "training": {
            "patients": len({image.patient for image in images}),
            "licence": settings.licence,
            "places": sum(len(image.labels) for image in images),
            "views": settings.views_of_image,
            "shares": dict(zip(classes, shares.tolist(), strict=True)),
            "images": [image.to_dict() for image in images],
            "members": settings.members,
            "balanced": _how(settings).balanced,
            "prior": settings.prior,
            "penalty": fit.penalty,
            "losses": {f"{penalty:g}": loss for penalty, loss in fit.losses.items()},
            "left_out_together": split,
            "seed": settings.seed,
        },
        "figures": {"out_of_fold": _figures(settings.level, places, fit, images, settings.seed)},
    }


def _figures(
    level: Level, places: LabelledPlaces, fit: CellTypeFit, images: Sequence[LabelledImage], seed: int
) -> dict[str, Any]:
    """Return the figures on places whose unit the heads did not see; penalty and temperature were chosen there."""
    places = places.take(np.arange(sum(len(image.labels) for image in images)))  # the images as they are, no other view
    found = fit.out_of_fold[: len(places)]
    classes = fit.ensemble.classes
    note = "penalty and temperature were chosen on these places; other patients and scanners score lower"
    if level == "neighbourhood":
        section = np.repeat(np.arange(len(images)), [len(image.labels) for image in images])
        return {"note": note, **share_figures(found, places.target, classes, section)}
    truth: NDArray[np.intp] = np.asarray(places.target.argmax(axis=1))
    return {"note": note, **classification_figures(found, truth, classes, places.unit, seed=seed)}
