"""How much of an encoder's bare speed is left when tiles come from a slide.

Run: python tests/benchmarks/encoder_throughput.py [--device cuda] [--precision bfloat16] [--tiles 8192] [NAME ...]

Weights are random: they do not matter to the speed. ``bare`` is the network on one batch that lies on the device
already; ``from the slide`` reads, crops and normalises too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import torch

from stimage_qupath.models.encoders import load_encoder
from stimage_qupath.models.tile_encoder import DTYPES, TileEncoder
from stimage_qupath.prediction.device import choose_device, default_batch_size
from stimage_qupath.prediction.stream import encode_points
from stimage_qupath.slide.reader import open_slide

MPP = 0.5
SIDE_PX = 8192


def main() -> None:
    """Print a line an encoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["uni", "virchow2"], help="encoders; a ViT-L and a ViT-H")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="bfloat16", choices=sorted(DTYPES))
    parser.add_argument("--tiles", type=int, default=8192)
    options = parser.parse_args()
    device = choose_device(options.device)
    batch_size = default_batch_size(device)
    with tempfile.TemporaryDirectory() as folder:
        path = _slide(Path(folder) / "slide.tif")
        for name in options.names:
            encoder = load_encoder(name, pretrained=False, precision=options.precision)
            bare = _bare(encoder, device, batch_size, options.tiles)
            full = _from_slide(encoder, path, device, batch_size, options.tiles)
            print(f"{name}: bare {bare:.1f} tiles/s, from the slide {full:.1f} tiles/s, ratio {full / bare:.3f}")


def _slide(path: Path) -> Path:
    rng = np.random.default_rng(0)
    pixels = rng.integers(120, 250, (SIDE_PX // 8, SIDE_PX // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    options = {"photometric": "rgb", "tile": (512, 512), "compression": "jpeg", "metadata": None}
    tifffile.imwrite(path, pixels, resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER", **options)
    return path


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _bare(encoder: TileEncoder, device: torch.device, batch_size: int, tiles: int) -> float:
    dtype = DTYPES[encoder.card.precision]
    batch = torch.randn(batch_size, 3, encoder.card.tile_px, encoder.card.tile_px, device=device)
    network = encoder.network.to(device)
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        network(batch)
        _wait(device)
        start = time.perf_counter()
        for _ in range(max(1, tiles // batch_size)):
            network(batch)
        _wait(device)
    return max(1, tiles // batch_size) * batch_size / (time.perf_counter() - start)


def _from_slide(encoder: TileEncoder, path: Path, device: torch.device, batch_size: int, tiles: int) -> float:
    points = np.random.default_rng(1).uniform(300, SIDE_PX - 300, (tiles, 2))
    with open_slide(path) as slide:
        encode_points(slide, MPP, points[:batch_size], encoder, device=device, batch_size=batch_size)
        start = time.perf_counter()
        encode_points(slide, MPP, points, encoder, device=device, batch_size=batch_size, threads=4)
    return tiles / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
