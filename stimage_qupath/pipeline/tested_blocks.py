"""The blocks of a finished run on which attributions are tested, read from its slide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.attribution.capabilities import as_local, as_pooled, sees_px, window_px
from stimage_qupath.attribution.plan import CELLS_A_BLOCK, Grid, Outlines, places_on_grid
from stimage_qupath.attribution.reader import Block, SceneReader
from stimage_qupath.attribution.repainted import Bounds
from stimage_qupath.export.cell_outlines import read_outlines
from stimage_qupath.export.run_reader import Run
from stimage_qupath.models.checkpoint import Model
from stimage_qupath.pipeline.run_slide import open_run_slide
from stimage_qupath.prediction.cells import DEFAULT_STRIDE_UM
from stimage_qupath.regions.stain_overview import normalised, target_of

LEAST_BLOCK_UM: Final = 200.0
"""Side of a block at least; else as wide as the window of a prediction, so that a block's predictions look at it."""
LEAST_NUCLEI: Final = 50
"""Of a block that is tested: with fewer there is no order to speak of."""

Where = tuple[tuple[int, int], NDArray[np.intp]]


@dataclass(frozen=True, slots=True)
class TestedBlocks:
    """Reads one block after another.

    Attributes
    ----------
    reader
        Of scenes.
    """

    reader: SceneReader

    @property
    def side_um(self) -> float:
        """Side of a block."""
        return self.reader.grid.block * self.reader.card.mpp

    def choose(self, most: int, *, least_nuclei: int = LEAST_NUCLEI, seed: int = 0) -> list[Where]:
        """Return blocks with enough nuclei, at most so many, drawn by chance and then in reading order.

        Each is its row and column, and its nuclei.
        """
        there = [b for b in self.reader.grid.blocks(self.reader.outlines.centroids_px) if len(b[1]) >= least_nuclei]
        drawn = np.random.default_rng(seed).permutation(len(there))[:most]
        return [there[number] for number in np.sort(drawn).tolist()]

    def read(self, where: tuple[int, int], nuclei: NDArray[np.intp]) -> tuple[Block, Bounds]:
        """Return a block, and where it lies in its scene."""
        block, side = self.reader.read(where, nuclei), self.reader.grid.block
        left, top = where[1] * side - block.corner[0], where[0] * side - block.corner[1]
        return block, Bounds(left, top, left + side, top + side)


@contextmanager
def open_blocks(finished: Run, model: Model, *, image: Path | None = None) -> Iterator[TestedBlocks]:
    """Open the slide of a run and divide it into blocks.

    Parameters
    ----------
    finished
        The run.
    model
        That made it.
    image
        The slide, where it has moved since.

    Raises
    ------
    UsageError
        The slide is not there, or is another one.
    """
    vertices, starts = read_outlines(finished.geojson_path)
    centroids = finished.table(["x_px", "y_px"]).to_numpy(np.float64)
    outlines = Outlines(vertices, starts, centroids)
    mpp, card = float(finished.record["image"]["mpp"]), model.encoder.card
    shares = as_local(model.encoder) is not None or as_pooled(model.encoder) is not None
    stride_um = DEFAULT_STRIDE_UM if shares else card.tile_um / 2  # as for an explanation
    block_px = max(LEAST_BLOCK_UM / card.mpp, window_px(model.encoder))
    with open_run_slide(finished, image, option="--image") as slide:
        yield TestedBlocks(
            SceneReader(
                slide=normalised(slide, mpp, target_of(model.card)),
                mpp=mpp,
                card=card,
                outlines=outlines,
                places=places_on_grid(centroids, stride_um / mpp),
                grid=Grid(card.mpp / mpp, max(1, round(block_px / CELLS_A_BLOCK))),
                reach_px=outlines.reach_px(),
                sees_px=sees_px(model.encoder),
            )
        )
