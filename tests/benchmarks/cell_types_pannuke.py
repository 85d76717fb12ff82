"""A cell-type model on PanNuke patches, which it never saw: F1 of each class, confusion, calibration.

    python tests/benchmarks/cell_types_pannuke.py MODEL FOLDER [--all]

FOLDER holds ``imgs/*.png`` and ``masks/*.mat`` (``inst_map``, ``type_map``) at 0.25 um a pixel, and with ``--all``
``tiny_test.h5`` too, whose patches are mirrored cuts of the same three: they add no nuclei, and are drawn with their
source in the bootstrap. PanNuke's neoplastic and epithelial nuclei both count as the model's neoplastic ones (its
training had no normal epithelium); dead ones are left out. A second table leaves the epithelial ones out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import shapely
import torch
from PIL import Image
from scipy import io
from skimage.measure import find_contours

from stimage_qupath.models.cell_type_store import load_cell_types
from stimage_qupath.prediction.cell_types import CellTyper
from stimage_qupath.results import Cells
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.validation.classification import classification_figures

MPP = 0.25
TYPES = ("neoplastic", "inflammatory", "connective", "dead", "epithelial")
LEAST_PX = 12
SOURCES = 3


def patches(folder: Path, *, mirrored: bool):
    """Yield image, instances, types and the number of the source patch."""
    for source in range(SOURCES):
        image = np.asarray(Image.open(folder / "imgs" / f"patch{source + 1}.png").convert("RGB"))
        masks = io.loadmat(folder / "masks" / f"patch{source + 1}.mat")
        yield image, masks["inst_map"], masks["type_map"], source
    if mirrored:
        with h5py.File(folder / "tiny_test.h5") as file:
            images, instances, types = (unpacked(file[name]) for name in ("imgs", "insts", "types"))
        for number, patch in enumerate(zip(images, instances, types, strict=True)):
            yield *patch, number // (len(images) // SOURCES)


def unpacked(dataset: h5py.Dataset) -> np.ndarray:
    """Return a dataset that PyTables packed with blosc, a filter that h5py does not bring."""
    from numcodecs import blosc  # zarr brings it

    array = np.empty(dataset.shape, dataset.dtype)
    for number in range(dataset.id.get_num_chunks()):
        offset = dataset.id.get_chunk_info(number).chunk_offset
        _, data = dataset.id.read_direct_chunk(offset)
        array[offset[0]] = np.frombuffer(blosc.decompress(data), dataset.dtype).reshape(dataset.chunks)[0]
    return array


def nuclei(instances: np.ndarray, types: np.ndarray) -> tuple[Cells, np.ndarray]:
    """Return the nuclei of a patch and PanNuke's type of each."""
    polygons, found = [], []
    for number in np.unique(instances[instances > 0]):
        mask = np.pad(instances == number, 1)
        if mask.sum() < LEAST_PX:
            continue
        ring = max(find_contours(mask.astype(float), 0.5), key=len)[:, ::-1] - 0.5
        parts = shapely.get_parts(shapely.make_valid(shapely.Polygon(ring)))
        polygons.append(max(parts, key=lambda part: part.area))
        found.append(TYPES[int(np.bincount(types[instances == number], minlength=6)[1:].argmax())])
    outlines = np.array(polygons, dtype=object)
    centroids = shapely.get_coordinates(shapely.centroid(outlines))
    return Cells(np.arange(len(outlines)).astype(str).astype(object), outlines, centroids), np.array(found)


def main() -> None:
    """Score the model and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="mirrored patches too")
    asked = parser.parse_args()
    typer = CellTyper.of(load_cell_types(asked.model))
    probability, truth, source = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number, (image, instances, types, origin) in enumerate(patches(asked.folder, mirrored=asked.all)):
            path = Path(scratch) / f"{number}.png"
            Image.fromarray(image).save(path)
            cells, names = nuclei(instances, types)
            with open_slide(path) as slide:
                found = typer.predict(slide, MPP, cells, device=torch.device("cpu"), batch_size=64)
            probability.append(found.probability)
            truth.append(names)
            source.append(np.full(len(cells), origin))
    print_figures(typer, np.concatenate(probability), np.concatenate(truth), np.concatenate(source))


def print_figures(typer: CellTyper, probability: np.ndarray, truth: np.ndarray, source: np.ndarray) -> None:
    """Print the figures of both mappings."""
    classes = typer.model.ensemble.classes
    mappings = {
        "epithelial counts as neoplastic": {name: name for name in classes} | {"epithelial": "neoplastic"},
        "epithelial left out": {name: name for name in classes},
    }
    figures = {}
    for what, mapping in mappings.items():
        kept = np.isin(truth, list(mapping))
        codes = np.array([classes.index(mapping[name]) for name in truth[kept]])
        figures[what] = classification_figures(probability[kept].astype(float), codes, classes, source[kept])
    sys.stdout.write(json.dumps({"model": typer.model.name, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
