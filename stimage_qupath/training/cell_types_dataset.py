"""Images whose nuclei, spots or areas are labelled, from a dataset table, with the features of each place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.models.cell_type_store import Level
from stimage_qupath.models.scale import scale_notes
from stimage_qupath.prediction.cache import FeatureCache, file_sha256
from stimage_qupath.prediction.nucleus_features import NucleusFeatures
from stimage_qupath.results import CancelCheck, ProgressCallback, stop_if
from stimage_qupath.slide.calibration import slide_pixel_size
from stimage_qupath.slide.reader import Slide, open_slide
from stimage_qupath.spots.label_transfer import Reference
from stimage_qupath.training.cell_types_labels import DEFAULT_COLUMN, Labels, classified_nuclei, labelled_cells
from stimage_qupath.training.cell_types_places import SPOT_UM, annotated_areas, spot_proportions
from stimage_qupath.training.cell_types_views import other_views
from stimage_qupath.training.labelled_images import LabelledImage
from stimage_qupath.training.xenium_labels import xenium_nuclei
from stimage_qupath.word_table import read_words

COLUMNS: Final = ("image", "labels")
OPTIONAL: Final = ("source", "mpp", "patient", "licence", "spots", "nuclei", "column", "alignment", "dapi", "spot_um")
SOURCES: Final[Mapping[Level, tuple[str, ...]]] = {
    "nucleus": ("geojson", "anndata", "xenium"),
    "neighbourhood": ("proportions",),
    "region": ("annotations",),
}
"""What each level learns from; the first is meant where the table does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How places become features.

    Attributes
    ----------
    features
        What is looked at.
    views, seed
        Further views of each image, in other stains and scales, and their seed.
    device, batch_size
        For encoders that are networks.
    cache
        Where features of the encoder are kept; None computes them.
    """

    features: NucleusFeatures
    device: torch.device
    batch_size: int
    views: int = 0
    seed: int = 0
    cache: FeatureCache | None = None

    def other_views(
        self, slide: Slide, mpp: float, labels: Labels, cancelled: CancelCheck
    ) -> tuple[NDArray[np.float32], ...]:
        """Return the features of the labelled places in other views of the slide."""
        alone = replace(self, cache=None)
        views = other_views(slide, mpp, count=self.views, seed=self.seed)
        return tuple(alone(view, seen_mpp, labels, "", cancelled) for view, seen_mpp in views)

    def __call__(
        self, slide: Slide, mpp: float, labels: Labels, sha256: str, cancelled: CancelCheck
    ) -> NDArray[np.float32]:
        """Return the features of the labelled places, (place, feature)."""
        options: dict[str, Any] = {"device": self.device, "batch_size": self.batch_size, "cancelled": cancelled}
        parts = []
        if self.features.encoder is not None:
            compute = partial(self.features.of_points, slide, mpp, labels.points_px, **options)
            keep = self.cache and partial(
                self.cache.features,
                self.features.encoder,
                slide_sha256=sha256,
                mpp=mpp,
                points_px=labels.points_px,
                compute=compute,
            )
            parts.append(keep() if keep else compute())
        if self.features.needs_outlines and labels.nuclei is not None:
            parts.append(replace(self.features, encoder=None).of_cells(slide, mpp, labels.nuclei, **options))
        return np.concatenate(parts, axis=1)


def read_labelled_images(
    table: Path,
    encoding: Encoding,
    *,
    level: Level,
    reference: Reference | None = None,
    on_progress: ProgressCallback,
    cancelled: CancelCheck,
) -> list[LabelledImage]:
    """Read every image that a dataset table names, and its labels.

    The table is CSV with the columns ``image, labels``; paths are relative to the table or absolute. It may have
    ``source`` (see :data:`SOURCES`), ``mpp``, ``patient``, ``licence``, and what a source needs: ``nuclei`` (a file of
    outlines), ``column`` (of AnnData's ``obs``), ``spots`` and ``spot_um`` (of an ST array), ``alignment`` and ``dapi``
    (Xenium).

    Parameters
    ----------
    table
        The file.
    encoding
        What is looked at.
    level
        What is learnt.
    reference
        Cells of known type, for Xenium bundles.
    on_progress, cancelled
        Called with the stage ``labels`` and the images done.

    Raises
    ------
    UsageError, AnnotationError, CalibrationError, ImageError
        The table, or a file that it names.
    """
    rows = _rows(table)
    images = []
    for number, row in enumerate(rows):
        stop_if(cancelled)
        on_progress("labels", number, len(rows), row["image"])
        images.append(_read(row, table.parent, encoding, level, reference, cancelled))
    on_progress("labels", len(rows), len(rows), "")
    return images


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        msg = f"expected a dataset table at {table}, found no file; pass a CSV with the columns {','.join(COLUMNS)}"
        raise UsageError(msg)
    rows = read_words(table, what="a dataset table")
    missing = [c for c in COLUMNS if c not in rows.columns]
    unknown = [c for c in rows.columns if c not in (*COLUMNS, *OPTIONAL)]
    if missing or unknown or rows.empty:
        found = f"no column {', '.join(missing)}" if missing else f"{', '.join(unknown)}" if unknown else "no rows"
        msg = f"expected a table with the columns {','.join(COLUMNS)} and out of {','.join(OPTIONAL)}, found {found}"
        raise UsageError(msg)
    return [{str(key): str(value).strip() for key, value in row.items()} for row in rows.to_dict("records")]


def _read(
    row: Mapping[str, str],
    folder: Path,
    encoding: Encoding,
    level: Level,
    reference: Reference | None,
    cancelled: CancelCheck,
) -> LabelledImage:
    """Read one image, its labels and its features."""
    files = {key: folder / row[key] for key in ("image", "labels", "spots", "nuclei", "dapi") if row.get(key)}
    for key in ("image", "labels"):
        if key not in files or not files[key].exists():
            msg = f"expected the {key} of a row of the dataset at {files.get(key, '(empty cell)')}, found no file"
            raise UsageError(msg)
    name = files["image"].name
    source = row.get("source") or SOURCES[level][0]
    if source not in SOURCES[level]:
        msg = f"expected a source out of {', '.join(SOURCES[level])} for level {level}, found '{source}' for {name}"
        raise UsageError(msg)
    with open_slide(files["image"]) as slide:
        mpp = slide_pixel_size(slide, _number(row, "mpp", name), what=name)
        encoder = encoding.features.encoder
        notes = () if encoder is None else scale_notes(encoder.card, mpp, what=name)
        labels, record = _reader(source, row, files, folder, reference)(slide, mpp)
        labels = replace(labels, notes=(*notes, *labels.notes))
        if encoding.features.needs_outlines and labels.nuclei is None:
            msg = f"expected the outlines of nuclei for appearance and shape, found places alone for {name}"
            raise UsageError(msg)
        sha256 = file_sha256(files["image"])
        features = encoding(slide, mpp, labels, sha256, cancelled)
        views = encoding.other_views(slide, mpp, labels, cancelled)
    return LabelledImage(
        name=name,
        patient=row.get("patient") or name,
        licence=row.get("licence") or "not stated",
        source=source,
        mpp=mpp,
        sha256=sha256,
        labels=labels,
        features=features,
        views=views,
        record=record,
    )


def _reader(
    source: str, row: Mapping[str, str], files: Mapping[str, Path], folder: Path, reference: Reference | None
) -> Callable[[Slide, float], tuple[Labels, dict[str, Any]]]:
    """Return what reads the labels of a row from its open slide."""
    path, nuclei = files["labels"], files.get("nuclei")
    if source == "geojson":
        return lambda slide, mpp: (classified_nuclei(path, slide, mpp), {})
    if source == "annotations":
        return lambda slide, mpp: (annotated_areas(path, slide, mpp), {})
    if source == "anndata":
        column = row.get("column") or DEFAULT_COLUMN
        return lambda slide, mpp: (labelled_cells(path, slide, mpp, nuclei=nuclei, column=column), {})
    if source == "proportions":
        spot_um = _number(row, "spot_um", path.name) or SPOT_UM
        return lambda slide, mpp: (
            spot_proportions(path, slide, mpp, spots=files.get("spots"), nuclei=nuclei, spot_um=spot_um),
            {},
        )
    if reference is None or nuclei is None:
        missing = "a reference with known types (--reference)" if reference is None else "the column nuclei"
        msg = f"expected {missing} for the Xenium bundle {path.name}, found none"
        raise UsageError(msg)
    alignment = row.get("alignment", "")
    where = alignment if alignment in ("", "none") else str(folder / alignment)
    dapi = files.get("dapi")
    return lambda slide, mpp: xenium_nuclei(
        path, slide, mpp, alignment=where, nuclei=nuclei, dapi=dapi, reference=reference
    )


def _number(row: Mapping[str, str], column: str, name: str) -> float | None:
    """Return a number of the table, None where the cell is empty."""
    text = row.get(column, "")
    try:
        return float(text) if text else None
    except ValueError as error:
        msg = f"expected a number as {column} of {name}, found '{text}'"
        raise UsageError(msg) from error
