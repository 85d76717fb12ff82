"""Peak memory of finding nuclei on 40,000 x 40,000 px against 10,000 x 10,000 px with the same tissue.

    python tests/benchmarks/nuclei_memory.py [IMAGE] [--segmenter classical]

One encoded tile of tissue stands for all: in the small pyramid in each place of a square, in the large one scattered
over the whole, with one encoded tile of glass in between. Each is segmented in a process of its own. Expected: the
larger takes at most 1.2 times the memory; else the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MPP = 0.5
TILE = 512
SIDES = (10_000, 40_000)
LEVELS = 4
TISSUE_TILES = 36
MOST_RATIO = 1.2


def tissue(image: Path | None) -> NDArray[np.uint8]:
    """Return a tile of tissue: the middle of an image, or discs on pink."""
    if image is not None:
        Image.MAX_IMAGE_PIXELS = None
        pixels = np.asarray(Image.open(image).convert("RGB"))
        top, left = ((n - TILE) // 2 for n in pixels.shape[:2])
        return np.ascontiguousarray(pixels[top : top + TILE, left : left + TILE])
    row, column = np.mgrid[:TILE, :TILE] % 32 - 15.5
    is_nucleus = np.hypot(row, column) < 8
    noise = np.random.default_rng(0).normal(0, 8, (TILE, TILE, 1))
    colours = np.where(is_nucleus[..., None], (95.0, 60, 145), (226.0, 168, 200)) + noise
    return np.clip(colours, 0, 255).astype(np.uint8)


def places(side: int) -> set[tuple[int, int]]:
    """Return the rows and columns of the tiles that hold tissue: every n-th, so that both slides have as many."""
    across = int(TISSUE_TILES**0.5)
    step = side // TILE // across
    return {(row * step, column * step) for row, column in itertools.product(range(across), repeat=2)}


def write_pyramid(path: Path, side: int, pixels: NDArray[np.uint8]) -> None:
    """Write a pyramid in which every kind of tile stands once and is pointed to from wherever it belongs.

    A writer that takes each tile as an array encodes 8,000 of them; here the BigTIFF is put together by hand, see
    https://www.awaresystems.be/imaging/tiff/bigtiff.html.
    """
    with path.open("wb") as stream:
        stream.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        link = 8  # where the offset of the next directory goes
        for level in range(LEVELS):
            scale = 2**level
            offsets, counts = [], []
            places_of_kinds: dict[bytes, int] = {}
            for tile in kinds(side // scale, scale, pixels, places(side)):
                if tile not in places_of_kinds:
                    places_of_kinds[tile] = stream.tell()
                    stream.write(tile)
                offsets.append(places_of_kinds[tile])
                counts.append(len(tile))
            link = write_directory(stream, link, side // scale, scale, offsets, counts)


def write_directory(stream: BinaryIO, link: int, side: int, scale: int, offsets: list[int], counts: list[int]) -> int:
    """Write the directory of a level, have ``link`` point to it, and return where the next one's offset goes."""
    lists = []
    for values in (offsets, counts):
        lists.append(stream.tell())
        stream.write(struct.pack(f"<{len(values)}Q", *values))
    resolution = round(1e4 / MPP / scale), 1  # fits a BigTIFF entry, as all below but the two lists
    entries: list[tuple[int, int, int, bytes]] = [
        (254, 4, 1, struct.pack("<I", int(scale > 1))),
        (256, 4, 1, struct.pack("<I", side)),
        (257, 4, 1, struct.pack("<I", side)),
        (258, 3, 3, struct.pack("<3H", 8, 8, 8)),
        (259, 3, 1, struct.pack("<H", 8)),  # deflate
        (262, 3, 1, struct.pack("<H", 2)),  # RGB
        (277, 3, 1, struct.pack("<H", 3)),
        (282, 5, 1, struct.pack("<2I", *resolution)),
        (283, 5, 1, struct.pack("<2I", *resolution)),
        (284, 3, 1, struct.pack("<H", 1)),
        (296, 3, 1, struct.pack("<H", 3)),  # centimetre
        (322, 4, 1, struct.pack("<I", TILE)),
        (323, 4, 1, struct.pack("<I", TILE)),
        (324, 16, len(offsets), struct.pack("<Q", lists[0])),
        (325, 16, len(counts), struct.pack("<Q", lists[1])),
    ]
    start = stream.tell()
    stream.write(struct.pack("<Q", len(entries)))
    for tag, kind, count, value in entries:
        stream.write(struct.pack("<HHQ8s", tag, kind, count, value))
    following = stream.tell()
    stream.write(bytes(8))
    stream.seek(link)
    stream.write(struct.pack("<Q", start))
    stream.seek(0, 2)
    return following


def kinds(side: int, scale: int, pixels: NDArray[np.uint8], chosen: set[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the encoded tiles of a level, row by row."""
    count = -(-side // TILE)
    small, part = pixels[::scale, ::scale], TILE // scale
    encoded: dict[tuple[tuple[int, int], ...], bytes] = {}
    for row, column in itertools.product(range(count), repeat=2):
        below = itertools.product(range(scale), repeat=2)
        inside = tuple((i, j) for i, j in below if (row * scale + i, column * scale + j) in chosen)
        if inside not in encoded:
            tile = np.full((TILE, TILE, 3), 245, dtype=np.uint8)
            for i, j in inside:
                tile[i * part : (i + 1) * part, j * part : (j + 1) * part] = small
            encoded[inside] = zlib.compress(tile.tobytes(), 1)
        yield encoded[inside]


def segment(path: Path, segmenter: str) -> dict[str, float]:
    """Find the nuclei of the whole slide and return their number and the peak memory, MiB."""
    import shapely
    import torch

    from stimage_qupath.nuclei.registry import choose_segmenter
    from stimage_qupath.nuclei.segment import segment_regions
    from stimage_qupath.results import Region
    from stimage_qupath.slide.reader import open_slide

    with open_slide(path) as slide:
        whole = Region(id="whole", geometry=shapely.box(0, 0, slide.width, slide.height))
        chosen = choose_segmenter(segmenter, device=torch.device("cpu"))
        chunks = segment_regions(slide, MPP, [whole], chosen, image_id="image", threads=2)
        count = sum(len(chunk.cells) for chunk in chunks)
    return {"nuclei": count, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, nargs="?", help="H&E image whose middle is the tissue")
    parser.add_argument("--segmenter", default="classical")
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.of is not None:
        print(json.dumps(segment(given.of, given.segmenter)))
        return 0
    peaks = []
    print(f"{'side px':>8}{'tissue tiles':>14}{'nuclei':>9}{'peak MiB':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            path = Path(folder) / f"{side}.tif"
            write_pyramid(path, side, tissue(given.image))
            command: list[Any] = [sys.executable, __file__, "--of", path, "--segmenter", given.segmenter]
            row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            peaks.append(row["peak_mib"])
            print(f"{side:>8}{len(places(side)):>14}{row['nuclei']:>9}{row['peak_mib']:>10.0f}", flush=True)
    print(f"ratio {peaks[1] / peaks[0]:.2f}")
    return 0 if peaks[1] <= MOST_RATIO * peaks[0] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
