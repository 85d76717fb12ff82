"""Nuclei of 4,000 x 4,000 px in one piece against tiled: counts and matched F1 at three sizes of block.

    python tests/benchmarks/nuclei_seams.py IMAGE [--segmenter classical] [--segmenter stardist:FOLDER] [--mpp 0.5]

The image's middle is segmented once as a single block and once for each size; nuclei match one for one where they
overlap by more than half of their union. Expected: counts within 0.5 %, F1 of at least .995; else the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from stimage_qupath.nuclei.registry import choose_segmenter
from stimage_qupath.nuclei.segment import segment_regions
from stimage_qupath.nuclei.segmenter import Segmenter
from stimage_qupath.results import Region
from stimage_qupath.slide.reader import open_slide

BLOCKS_UM = (256.0, 512.0, 777.0)
MOST_COUNT_DIFFERENCE = 0.005
LEAST_F1 = 0.995


def found(image: Path, mpp: float, segmenter: Segmenter, block_um: float) -> NDArray[np.object_]:
    """Return the outlines of all nuclei."""
    with open_slide(image) as slide:
        whole = Region(id="whole", geometry=shapely.box(0, 0, slide.width, slide.height))
        chunks = segment_regions(slide, mpp, [whole], segmenter, image_id="image", block_um=block_um, threads=1)
        parts = [chunk.cells.polygons for chunk in chunks]
    return np.concatenate([np.empty(0, dtype=object), *parts])


def matched_f1(truth: NDArray[np.object_], tiled: NDArray[np.object_]) -> float:
    """Return F1 at an IoU above one half, where a match is necessarily one for one."""
    mine, theirs = shapely.STRtree(truth).query(tiled, predicate="intersects")
    shared = shapely.area(shapely.intersection(tiled[mine], truth[theirs]))
    union = shapely.area(tiled[mine]) + shapely.area(truth[theirs]) - shared
    return float(2 * (shared > union / 2).sum() / (len(truth) + len(tiled)))


def middle(image: Path, side: int, mpp: float, output: Path) -> None:
    """Write the middle of an image as a tiled TIFF."""
    Image.MAX_IMAGE_PIXELS = None
    pixels = np.asarray(Image.open(image).convert("RGB"))
    top, left = (max(0, n - side) // 2 for n in pixels.shape[:2])
    unit: dict[str, Any] = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(output, pixels[top : top + side, left : left + side], photometric="rgb", tile=(256, 256), **unit)


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--segmenter", action="append", help="as the command's; repeat for more")
    parser.add_argument("--mpp", type=float, default=0.5, help="um per pixel of the image")
    parser.add_argument("--side", type=int, default=4000, help="px")
    given = parser.parse_args(arguments)
    is_good = True
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "middle.tif"
        middle(given.image, given.side, given.mpp, image)
        print(f"{'segmenter':<30}{'block um':>10}{'whole':>8}{'tiled':>8}{'count':>9}{'F1':>8}")
        for name in given.segmenter or ["classical"]:
            segmenter = choose_segmenter(name, device=torch.device("cpu"))
            truth = found(image, given.mpp, segmenter, block_um=given.side * given.mpp)
            for block_um in BLOCKS_UM:
                tiled = found(image, given.mpp, segmenter, block_um)
                difference, f1 = len(tiled) / len(truth) - 1, matched_f1(truth, tiled)
                is_good &= abs(difference) <= MOST_COUNT_DIFFERENCE and f1 >= LEAST_F1
                counts = f"{len(truth):>8}{len(tiled):>8}{difference:>+9.3%}"
                print(f"{name[-30:]:<30}{block_um:>10g}{counts}{f1:>8.4f}", flush=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
