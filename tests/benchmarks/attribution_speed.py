"""Nuclei a second of the default method against nucleus-LIME with 500 samples, on the same tiles, model and cores.

    python tests/benchmarks/attribution_speed.py IMAGE --mpp 0.69 --x 5000 --y 4000 --side-um 800

LIME explains tiles that lie side by side, each once, as in STimage. The default method explains every prediction that
sees a nucleus. Both explain the same genes for all members. Seconds are of the processor, so that other work on the
machine counts less; run it on a quiet one all the same.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from stimage_qupath.attribution import ablation, lime
from stimage_qupath.attribution.capabilities import as_local, as_pooled, sees_px
from stimage_qupath.attribution.fills import choose_fill
from stimage_qupath.attribution.game import Game
from stimage_qupath.attribution.methods import DEFAULT_FILL
from stimage_qupath.attribution.plan import Grid, Outlines, Places, places_on_grid
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.reader import SceneReader
from stimage_qupath.attribution.targets import Outputs
from stimage_qupath.models.checkpoint import load_model
from stimage_qupath.nuclei.registry import choose_segmenter
from stimage_qupath.nuclei.segment import segment_regions
from stimage_qupath.prediction.cells import DEFAULT_STRIDE_UM
from stimage_qupath.results import Region
from stimage_qupath.slide.view import open_view


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--mpp", type=float, required=True)
    parser.add_argument("--x", type=float, required=True)
    parser.add_argument("--y", type=float, required=True)
    parser.add_argument("--side-um", type=float, default=800.0)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--genes", type=int, default=5)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--tiles", type=int, default=1, help="tiles that LIME explains")
    return parser.parse_args()


def main() -> None:
    import shapely

    given = arguments()
    model = load_model(given.model)
    encoder, genes = model.encoder, model.default_genes[: given.genes]
    device = torch.device("cpu")
    question = Question(
        encoder=encoder, outputs=Outputs(model.ensemble, genes), device=device, samples=given.samples, seed=0
    )
    side = given.side_um / given.mpp
    region = Region(id="area", geometry=shapely.box(given.x, given.y, given.x + side, given.y + side))
    with open_view(given.image) as slide:
        chunks = segment_regions(
            slide, given.mpp, [region], choose_segmenter("classical", device=device), image_id="benchmark"
        )
        cells = [chunk.cells for chunk in chunks]
        polygons = np.concatenate([c.polygons for c in cells])
        centroids = np.concatenate([c.centroids_px for c in cells])
        outlines = Outlines.from_polygons(polygons, centroids)
        shares = as_local(encoder) is not None or as_pooled(encoder) is not None
        stride = DEFAULT_STRIDE_UM if shares else encoder.card.tile_um / 2
        grid = Grid.of(encoder.card, given.mpp)

        def reader(places: Places) -> SceneReader:
            return SceneReader(
                slide=slide,
                mpp=given.mpp,
                card=encoder.card,
                outlines=outlines,
                places=places,
                grid=grid,
                reach_px=outlines.reach_px(),
                sees_px=sees_px(encoder),
            )

        blocks = [reader(places_on_grid(centroids, stride / given.mpp)).read(*b) for b in grid.blocks(centroids)]
        seconds, explained = 0.0, 0
        for block in blocks:
            filled = choose_fill(DEFAULT_FILL)(block.scene.image, block.nuclei_mask, block.scene.mpp)
            start = time.process_time()
            ablation.attribute(block.scene, filled, question)
            seconds += time.process_time() - start
            explained += block.scene.nuclei
        default = explained / seconds
        print(f"default (ablation): {explained} nuclei, {seconds:.1f} CPU s, {default:.1f} nuclei/s")

        middle = max(blocks, key=lambda block: block.scene.nuclei)
        centre = np.median(middle.middles[: middle.scene.nuclei], axis=0) + middle.corner
        tile = encoder.card.tile_um / given.mpp
        steps = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)][: given.tiles]
        points = centre * grid.downsample + np.array(steps) * tile
        one = reader(Places(points, np.ones(len(points)))).read(*max(grid.blocks(centroids), key=lambda b: len(b[1])))
        filled = choose_fill(DEFAULT_FILL)(one.scene.image, one.nuclei_mask, one.scene.mpp)
        seen = {
            int(f)
            for place in range(len(one.scene.centres))
            for f in Game(one.scene, filled, question, place).features
            if f < one.scene.nuclei
        }
        start = time.process_time()
        lime.attribute(one.scene, filled, question)
        seconds = time.process_time() - start
        rate = len(seen) / seconds
        print(f"LIME, {given.samples} samples: {len(seen)} nuclei, {seconds:.1f} CPU s, {rate:.1f} nuclei/s")
        print(f"ratio: {default / rate:.1f}")


if __name__ == "__main__":
    main()
