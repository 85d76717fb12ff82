"""Nuclei a second of the default method against nucleus-LIME with 500 samples, on the same tissue, model and cores.

    python tests/benchmarks/attribution_speed.py IMAGE --mpp 0.69 --at 3600,5000 --at 4800,4000

Each ``--at`` is a point of the slide, level-0 px; the block of tissue around it is explained. LIME explains the tile in
the middle of the block, as STimage does: a tile is the widest window of the model, and LIME is asked of all features
that the network can notice there. The nuclei of the tile count for LIME, those of the block for the default method,
which explains every prediction that sees a nucleus; so the figures are compared by nuclei a second. Both explain the
same genes for all members. Seconds are of the processor, so that other work on the machine counts less; for a figure
take a quiet one all the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapely
import torch

from stimage_qupath.attribution.capabilities import as_local, as_pooled, sees_px, window_px
from stimage_qupath.attribution.fills import choose_fill
from stimage_qupath.attribution.game import Game
from stimage_qupath.attribution.methods import DEFAULT_FILL, DEFAULT_METHOD, choose_method
from stimage_qupath.attribution.plan import Grid, Outlines, Places, places_on_grid
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.reader import Block, SceneReader
from stimage_qupath.attribution.scene import Contributions
from stimage_qupath.attribution.targets import Outputs
from stimage_qupath.models.checkpoint import Model, load_model
from stimage_qupath.nuclei.registry import choose_segmenter
from stimage_qupath.nuclei.segment import segment_regions
from stimage_qupath.prediction.cells import DEFAULT_STRIDE_UM
from stimage_qupath.results import Region
from stimage_qupath.slide.reader import Slide
from stimage_qupath.slide.view import open_view

CPU = torch.device("cpu")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--mpp", type=float, required=True)
    parser.add_argument("--at", action="append", required=True, help="X,Y of a point; repeat for more blocks")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--genes", type=int, default=5)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def seconds_of(method: str, block: Block, question: Question) -> tuple[Contributions, float]:
    filled = choose_fill(DEFAULT_FILL)(block.scene.image, block.nuclei_mask, block.scene.mpp)
    start = time.process_time()
    found = choose_method(method).load()(block.scene, filled, question)
    return found, time.process_time() - start


def pairs(slide: Slide, mpp: float, point: np.ndarray, model: Model) -> Iterator[Block]:
    """Yield the block around a point with all places that see it, and with the place in its middle alone."""
    card, grid = model.encoder.card, Grid.of(model.encoder.card, mpp)
    side = grid.block * grid.downsample
    corner = point // side * side
    region = Region(id="block", geometry=shapely.box(*corner, *(corner + side)))
    segmenter = choose_segmenter("classical", device=CPU)
    cells = [chunk.cells for chunk in segment_regions(slide, mpp, [region], segmenter, image_id="benchmark")]
    centroids = np.concatenate([c.centroids_px for c in cells])
    outlines = Outlines.from_polygons(np.concatenate([c.polygons for c in cells]), centroids)
    shares = as_local(model.encoder) is not None or as_pooled(model.encoder) is not None
    stride_um = DEFAULT_STRIDE_UM if shares else card.tile_um / 2
    middle = Places((corner + side / 2)[None], np.ones(1))
    for places in (places_on_grid(centroids, stride_um / mpp), middle):
        reader = SceneReader(
            slide=slide,
            mpp=mpp,
            card=card,
            outlines=outlines,
            places=places,
            grid=grid,
            reach_px=outlines.reach_px(),
            sees_px=sees_px(model.encoder),
        )
        yield reader.read(*max(grid.blocks(centroids), key=lambda found: len(found[1])))


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    model = load_model(given.model)
    outputs = Outputs(model.ensemble, model.default_genes[: given.genes])
    question = Question(encoder=model.encoder, outputs=outputs, device=CPU, samples=given.samples, seed=0)
    default, lime = np.zeros(2), np.zeros(2)
    for point in given.at:
        with open_view(given.image) as slide:
            whole, tile = pairs(slide, given.mpp, np.array(point.split(","), dtype=float), model)
        _, seconds = seconds_of(DEFAULT_METHOD, whole, question)
        default += whole.scene.nuclei, seconds
        from_middle = np.abs(tile.middles[: tile.scene.nuclei] - tile.scene.centres[0]).max(axis=1)
        _, seconds = seconds_of("lime", tile, question)
        lime += (from_middle <= window_px(model.encoder) / 2).sum(), seconds
        asked = Game(tile.scene, tile.scene.image, question, 0).players
        print(f"{point}: default {default}, lime {lime} (nuclei, CPU seconds so far); LIME has {asked} features")
    rates = [n / s for n, s in (default, lime)]
    for name, (n, s), rate in zip(
        (DEFAULT_METHOD, f"LIME, {given.samples} samples"), (default, lime), rates, strict=True
    ):
        print(f"{name}: {n:.0f} nuclei, {s:.1f} CPU s, {rate:.1f} nuclei/s")
    print(f"ratio: {rates[0] / rates[1]:.1f}")


if __name__ == "__main__":
    main()
