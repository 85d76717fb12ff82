"""Nuclei against annotated MoNuSeg tiles: Dice, AJI, F1 at IoU 0.5 and PQ for each tile, and their means.

Run it as ``python tests/benchmarks/monuseg.py FOLDER --segmenter classical he``; the folder holds
``NAME.png`` beside ``NAME.xml`` or ``NAME.xml.gz`` (Aperio). The data are for non-commercial use: score with them,
never choose parameters on them. Each tile is a slide of its own, so that the threshold comes from the tile.

AJI is the aggregated Jaccard index of Kumar et al. (2017), IEEE Trans Med Imaging 36:1550-1560: every annotated nucleus
takes the prediction of highest Jaccard index; the sum of intersections is divided by the sum of unions plus the area of
all predictions that nobody took. Where several annotated nuclei prefer one prediction, it counts for each of them, as
in the authors' code.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from stardist.matching import matching

from stimage_qupath.nuclei.registry import choose_segmenter
from stimage_qupath.nuclei.segment import segment_regions
from stimage_qupath.nuclei.segmenter import Segmenter
from stimage_qupath.results import Region
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.training.nuclei_labels import painted

METRICS = ("Dice", "AJI", "F1@0.5", "PQ")


def overlaps(truth: NDArray[np.int32], found: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the pixels that label i of one image shares with label j of the other, background included."""
    rows, cols = int(truth.max()) + 1, int(found.max()) + 1
    pairs = truth.ravel().astype(np.int64) * cols + found.ravel()
    return np.bincount(pairs, minlength=rows * cols).reshape(rows, cols)


def dice(truth: NDArray[np.int32], found: NDArray[np.int32]) -> float:
    """Return 2 |A and B| / (|A| + |B|) of the two foregrounds."""
    both = np.count_nonzero((truth > 0) & (found > 0))
    return 2 * both / (np.count_nonzero(truth) + np.count_nonzero(found))


def aji(truth: NDArray[np.int32], found: NDArray[np.int32]) -> float:
    """Return the aggregated Jaccard index."""
    shared = overlaps(truth, found)
    areas, found_areas = shared.sum(axis=1)[1:], shared.sum(axis=0)[1:]
    shared = shared[1:, 1:]
    if shared.shape[1] == 0:
        return 0.0
    union = areas[:, None] + found_areas - shared
    best = np.argmax(shared / np.maximum(union, 1), axis=1)
    nuclei = np.arange(len(areas))
    matched = shared[nuclei, best] > 0
    unions = np.where(matched, union[nuclei, best], areas)
    free = np.ones(len(found_areas), dtype=bool)
    free[best[matched]] = False
    return float(shared[nuclei, best].sum() / (unions.sum() + found_areas[free].sum()))


def scores(truth: NDArray[np.int32], found: NDArray[np.int32]) -> tuple[float, float, float, float]:
    """Return Dice, AJI, F1 at IoU 0.5 and PQ."""
    matched = matching(truth, found, thresh=0.5)
    return dice(truth, found), aji(truth, found), float(matched.f1), float(matched.panoptic_quality)


def read_annotations(path: Path) -> tuple[list[NDArray[np.float64]], float]:
    """Return the outlines of an Aperio XML file, (x, y) of pixel centres, and its pixel size in µm."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    root = ElementTree.fromstring(text)
    rings = [
        np.array([(float(vertex.get("X", "nan")), float(vertex.get("Y", "nan"))) for vertex in region.iter("Vertex")])
        for region in root.iter("Region")
    ]
    return [ring for ring in rings if len(ring) > 2], float(root.get("MicronsPerPixel", "nan"))


def score_tile(
    image: Path, annotations: Path, segmenter: Segmenter
) -> tuple[int, int, tuple[float, float, float, float]]:
    """Return the number of annotated and of found nuclei of a tile, and its scores."""
    rings, mpp = read_annotations(annotations)
    with open_slide(image) as slide:
        shape = slide.height, slide.width
        whole = Region(id="tile", geometry=shapely.box(0, 0, slide.width, slide.height))
        chunks = list(segment_regions(slide, mpp, [whole], segmenter, image_id=image.stem))
    outlines = [np.asarray(polygon.exterior.coords) for chunk in chunks for polygon in chunk.cells.polygons]
    return len(rings), len(outlines), scores(painted([ring + 0.5 for ring in rings], shape), painted(outlines, shape))


def print_table(tiles: list[tuple[Path, Path]], name: str) -> None:
    """Score one segmenter on every tile."""
    write = sys.stdout.write
    segmenter = choose_segmenter(name, device=torch.device("cpu"))
    write(f"{name}\n{'tile':<26}{'annotated':>10}{'found':>8}" + "".join(f"{m:>9}" for m in METRICS) + f"{'s':>7}\n")
    table = []
    for image, outlines in tiles:
        start = time.perf_counter()
        annotated, found, values = score_tile(image, outlines, segmenter)
        table.append(values)
        write(f"{image.stem:<26}{annotated:>10}{found:>8}" + "".join(f"{v:9.3f}" for v in values))
        write(f"{time.perf_counter() - start:7.1f}\n")
    write(f"{'mean of ' + str(len(table)):<44}" + "".join(f"{v:9.3f}" for v in np.mean(table, axis=0)) + "\n")


def main(arguments: list[str]) -> int:
    """Print a table a segmenter."""
    parser = argparse.ArgumentParser(description="Score segmenters on MoNuSeg tiles.")
    parser.add_argument("folder", type=Path, help="folder of NAME.png beside NAME.xml or NAME.xml.gz")
    parser.add_argument("--segmenter", nargs="+", default=["classical", "he"], help="as the command segment takes it")
    options = parser.parse_args(arguments)
    tiles = sorted(
        (image, found[0])
        for image in options.folder.glob("*.png")
        if (found := sorted(options.folder.glob(f"{image.stem}.xml*")))
    )
    if not tiles:
        parser.error(f"expected NAME.png beside NAME.xml in {options.folder}, found none")
    for name in options.segmenter:
        print_table(tiles, name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
