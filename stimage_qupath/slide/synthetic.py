"""A synthetic H&E slide of any size, for timings where no real slide of that size is at hand.

Nuclei are ellipses with grainy chromatin on a stroma of smooth noise, in the colours of haematoxylin and eosin. It
looks enough like tissue to be found, outlined and encoded, and is of no use for anything else. A few tiles are drawn
and used again and again, so that a large slide is written about as fast as the disk takes it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

TILE_PX: Final = 512
VARIANTS: Final = 12
"""Different tiles of tissue."""
GLASS: Final = 243
NUCLEUS: Final = (96.0, 62.0, 148.0)
STROMA: Final = (224.0, 164.0, 198.0)
ISLAND: Final = 2
"""Tiles along a side of a scattered piece of tissue."""
DENSITY_UM2: Final = 1 / 180
"""Nuclei a square micrometre, as in a cellular carcinoma."""
RADIUS_UM: Final = (2.6, 4.4)


def write_synthetic_slide(
    path: Path, width: int, height: int, *, mpp: float = 0.5, seed: int = 0, tissue_tiles: int | None = None
) -> int:
    """Write a pyramidal OME-TIFF and return how many of its tiles are tissue.

    Parameters
    ----------
    path
        ``.ome.tif`` to write.
    width, height
        Level-0 px.
    mpp
        um per pixel.
    seed
        Of every random number.
    tissue_tiles
        None fills two thirds with an ellipse of tissue; a number makes about so many tiles of tissue, in squares of
        :data:`ISLAND` x :data:`ISLAND` that are scattered over the whole slide.
    """
    rng = np.random.default_rng(seed)
    tissue = [draw_tile(rng, mpp) for _ in range(VARIANTS)]
    rows, columns = -(-height // TILE_PX), -(-width // TILE_PX)
    inside = _ellipse(rows, columns) if tissue_tiles is None else _islands(rows, columns, tissue_tiles, rng)
    variant = np.where(inside, rng.integers(0, VARIANTS, inside.shape), -1)
    levels = max(1, int(np.ceil(np.log2(max(width, height) / 1024))) + 1)
    metadata: dict[str, Any] = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "PhysicalSizeXUnit": "µm",
                "PhysicalSizeYUnit": "µm"}  # fmt: skip
    options: dict[str, Any] = {"photometric": "rgb", "tile": (TILE_PX, TILE_PX), "compression": "zlib"}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as writer:
        for level in range(levels):
            step = 2**level
            shape = (-(-height // step), -(-width // step), 3)
            more: dict[str, Any] = {"subifds": levels - 1, "metadata": metadata} if level == 0 else {"subfiletype": 1}
            writer.write(_tiles(tissue, variant, step, shape), shape=shape, dtype=np.uint8, **options, **more)
    return int(inside.sum())


def _ellipse(rows: int, columns: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[:rows, :columns]
    ellipse = ((x + 0.5 - columns / 2) / (0.46 * columns)) ** 2 + ((y + 0.5 - rows / 2) / (0.46 * rows)) ** 2
    return np.asarray(ellipse < 1)


def _islands(rows: int, columns: int, tiles: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return squares that do not touch, spread over the whole."""
    places = np.indices((max(1, rows // (2 * ISLAND)), max(1, columns // (2 * ISLAND)))).reshape(2, -1).T
    count = min(len(places), max(1, round(tiles / ISLAND**2)))
    inside = np.zeros((rows, columns), dtype=bool)
    for row, column in (2 * ISLAND * places[rng.permutation(len(places))[:count]]).tolist():
        inside[row : row + ISLAND, column : column + ISLAND] = True
    return inside


def draw_tile(rng: np.random.Generator, mpp: float) -> NDArray[np.uint8]:
    """Return a tile of tissue, (TILE_PX, TILE_PX, 3)."""
    size = (TILE_PX, TILE_PX)
    texture = ndimage.gaussian_filter(rng.normal(size=size), 6) * 60 + rng.normal(size=size) * 4
    image = np.array(STROMA) + texture[..., None]
    number = rng.poisson(DENSITY_UM2 * (TILE_PX * mpp) ** 2)
    y, x = np.mgrid[:TILE_PX, :TILE_PX].astype(np.float32)
    grain = ndimage.gaussian_filter(rng.normal(size=size), 1.2) * 45
    for _ in range(number):
        long, short = np.sort(rng.uniform(*RADIUS_UM, 2))[::-1] / mpp
        row, column = rng.uniform(long, TILE_PX - long, 2)
        turn = rng.uniform(0, np.pi)
        top, left = int(row - long), int(column - long)
        near = (slice(max(0, top), int(row + long) + 2), slice(max(0, left), int(column + long) + 2))
        down, right = y[near] - row, x[near] - column
        along, across = down * np.cos(turn) + right * np.sin(turn), right * np.cos(turn) - down * np.sin(turn)
        mask = (along / long) ** 2 + (across / short) ** 2 < 1
        image[near][mask] = (np.array(NUCLEUS) + grain[near][..., None])[mask]
    return np.asarray(np.clip(np.round(image), 0, 255), dtype=np.uint8)


def _tiles(
    tissue: list[NDArray[np.uint8]], variant: NDArray[np.int64], step: int, shape: tuple[int, int, int]
) -> Iterator[bytes]:
    """Yield the compressed tiles of a level; a tile of a coarse level is made of the reduced tiles under it."""
    part = max(1, TILE_PX // step)
    reduced = [
        tile.reshape(part, TILE_PX // part, part, TILE_PX // part, 3).mean((1, 3)).astype(np.uint8) for tile in tissue
    ]
    under = TILE_PX // part
    done: dict[bytes, bytes] = {}
    for row in range(-(-shape[0] // TILE_PX)):
        for column in range(-(-shape[1] // TILE_PX)):
            below = variant[row * under : (row + 1) * under, column * under : (column + 1) * under]
            key = below.tobytes() if below.size == 1 or (below < 0).all() else b""
            if not key or key not in done:
                tile = np.full((TILE_PX, TILE_PX, 3), GLASS, dtype=np.uint8)
                for (i, j), kind in np.ndenumerate(below):
                    if kind >= 0:
                        tile[i * part : (i + 1) * part, j * part : (j + 1) * part] = reduced[kind]
                done[key] = zlib.compress(tile.tobytes(), 1)
            yield done[key]
