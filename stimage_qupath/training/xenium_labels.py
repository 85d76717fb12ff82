"""Nuclei of an H&E image with the types of the Xenium cells on them, and whether the two really lie on each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from stimage_qupath.errors import UsageError
from stimage_qupath.slide.reader import Slide
from stimage_qupath.slide.registration import Registration, register
from stimage_qupath.slide.stain import hematoxylin_eosin
from stimage_qupath.spots.anndata_sections import from_anndata, open_h5ad
from stimage_qupath.spots.label_transfer import LabelTransfer, Reference
from stimage_qupath.spots.source import Source
from stimage_qupath.spots.xenium import image_transform, morphology_pixel_um, moved, read_xenium
from stimage_qupath.training.cell_types_labels import Labels, on_nuclei

COMPARED_MPP: Final = 2.0
"""Pixel size at which haematoxylin and DAPI are compared: a nucleus is four pixels wide."""
MOST_PX: Final = 2048
"""Side of what is compared, about 4 mm in the middle of the image."""


def read_reference(path: Path, column: str) -> Reference:
    """Read cells of known type from AnnData: raw counts, and the types in ``obs[column]``.

    Raises
    ------
    UsageError
        The file is missing, of another form, or has no such column.
    """
    try:
        data = open_h5ad(path)
        if column not in data.obs:
            msg = f"expected the types in obs['{column}'] of {path.name}, found {', '.join(data.obs.columns)}"
            raise UsageError(msg)
        data = data[data.obs[column].notna()].to_memory()
        measured = from_anndata(data, path.name, kind="counts", positions_px=np.zeros((len(data), 2)))
    except ValueError as error:
        raise UsageError(str(error)) from error
    measured = measured.with_single_genes()
    types = data.obs[column].astype(str).to_numpy(dtype=str)
    if measured.values.shape[0] != len(types):  # spots outside tissue were left out: no reference of single cells
        msg = f"expected single cells in {path.name}, found a table of spots with in_tissue"
        raise UsageError(msg)
    return Reference(measured.values.toarray(), measured.genes, types)


def xenium_nuclei(
    bundle: Path, slide: Slide, mpp: float, *, alignment: str, nuclei: Path, dapi: Path | None, reference: Reference
) -> tuple[Labels, dict[str, Any]]:
    """Return the nuclei of the image with transferred types, and what the card says of transfer and registration.

    Parameters
    ----------
    bundle
        Folder of Xenium.
    slide, mpp
        The H&E image and its pixel size.
    alignment
        As for :func:`stimage_qupath.spots.xenium.read_xenium`.
    nuclei
        File of nuclei outlined in the image.
    dapi
        Morphology image of the bundle, or None: then nothing is known of the registration.
    reference
        Cells of known type.

    Raises
    ------
    UsageError
        A file is missing or of another form, or nothing fits.
    """
    try:
        measured = read_xenium(Source(counts=bundle, spots=None, alignment=alignment)).with_single_genes()
        to_image = image_transform(alignment, pixel_um=morphology_pixel_um(bundle))
    except (ValueError, OSError) as error:
        msg = f"the Xenium bundle {bundle.name} cannot be read: {error}"
        raise UsageError(msg) from error
    transfer = LabelTransfer.fit(reference, measured.genes)
    types = transfer.types(measured.values.toarray(), measured.genes)
    labels = on_nuclei(measured.positions_px, types, nuclei, slide, mpp)
    record: dict[str, Any] = {"transfer": transfer.to_dict(), "registration": None}
    if dapi is not None:
        record["registration"] = compare_stains(slide, mpp, dapi, to_image, morphology_pixel_um(bundle)).to_dict()
    return labels, record


def compare_stains(slide: Slide, mpp: float, dapi: Path, to_image: NDArray[np.float64], dapi_um: float) -> Registration:
    """Return how well the DAPI image lies on the haematoxylin of the slide, in the middle of it.

    Parameters
    ----------
    slide, mpp
        The H&E image and its pixel size.
    dapi
        TIFF; of a pyramid the coarsest level that still shows nuclei is read, of a stack the brightest of all planes.
    to_image
        (3, 3) from um of the DAPI image to level-0 px of the slide.
    dapi_um
        Pixel size of the DAPI image.

    Raises
    ------
    UsageError
        The DAPI image cannot be read, or one of the two is flat.
    """
    downsample = COMPARED_MPP / mpp
    width, height = (max(1, min(MOST_PX, int(side / downsample))) for side in (slide.width, slide.height))
    left = (slide.width - width * downsample) / 2
    top = (slide.height - height * downsample) / 2
    hematoxylin, _ = hematoxylin_eosin(slide.read_region(left, top, width=width, height=height, downsample=downsample))
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    on_slide = np.column_stack([left + columns.ravel() * downsample, top + rows.ravel() * downsample])
    picture, scale = _read_dapi(dapi, dapi_um)
    x, y = (moved(on_slide, np.asarray(np.linalg.inv(to_image), dtype=np.float64)) / scale - 0.5).T
    sampled = ndimage.map_coordinates(picture, [y, x], order=1, mode="constant").reshape(height, width)
    try:
        return register(hematoxylin.astype(np.float64), sampled, mpp=COMPARED_MPP)
    except ValueError as error:
        msg = f"{dapi.name} cannot be compared with the haematoxylin of {slide.path.name}: {error}"
        raise UsageError(msg) from error


def _read_dapi(path: Path, pixel_um: float) -> tuple[NDArray[np.float64], float]:
    """Return (row, col) of DAPI and its pixel size, um."""
    try:
        with tifffile.TiffFile(path) as file:
            levels = file.series[0].levels
            width = levels[0].sizes["width"]
            sizes = [pixel_um * width / level.sizes["width"] for level in levels]
            chosen = max((i for i, um in enumerate(sizes) if um <= COMPARED_MPP), default=0)
            array = np.asarray(levels[chosen].asarray(), dtype=np.float64)
    except (OSError, ValueError, KeyError, tifffile.TiffFileError) as error:
        msg = f"expected a DAPI image at {path}, found {error}; name the morphology image of the bundle"
        raise UsageError(msg) from error
    array = array.reshape(-1, *array.shape[-2:]).max(axis=0)
    smoothing = COMPARED_MPP / sizes[chosen] / 2  # against aliasing, where the level is finer than what is compared
    return ndimage.gaussian_filter(array, smoothing if smoothing > 0.5 else 0), sizes[chosen]
