"""Scenes, read from a slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.attribution.labels import divide_background, draw_nuclei
from stimage_qupath.attribution.plan import CELLS_A_BLOCK, Grid, Outlines, Places
from stimage_qupath.attribution.scene import Scene
from stimage_qupath.models.encoders import EncoderCard
from stimage_qupath.slide.reader import Slide


@dataclass(frozen=True, slots=True)
class Block:
    """A scene and where it lies.

    Attributes
    ----------
    scene
        Pixels, features and places.
    nuclei
        (nucleus,) which of the run's nuclei are explained here.
    middles
        (feature, 2) x and y of each feature in pixels of the scene.
    nuclei_mask
        (height, width) bool, nuclei of this block and of others.
    corner
        x and y of the scene's corner on the encoder's pixel grid of the slide.
    """

    scene: Scene
    nuclei: NDArray[np.intp]
    middles: NDArray[np.float64]
    nuclei_mask: NDArray[np.bool_]
    corner: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneReader:
    """Reads one block after another.

    Attributes
    ----------
    slide, mpp
        Where to read, and its pixel size.
    card
        Of the encoder.
    outlines, places, grid
        What is explained.
    reach_px
        How far an outline gets from its centroid, level-0 px.
    sees_px
        How far from a place something can matter to it, encoder pixels.
    """

    slide: Slide
    mpp: float
    card: EncoderCard
    outlines: Outlines
    places: Places
    grid: Grid
    reach_px: float
    sees_px: float

    def read(self, block: tuple[int, int], nuclei: NDArray[np.intp]) -> Block:
        """Return the block at (row, column), whose nuclei are ``nuclei``."""
        step = self.grid.downsample
        low = np.array([block[1], block[0]]) * self.grid.block * step
        high = low + self.grid.block * step
        window = self.sees_px * step
        places = self.places.near(low - window - self.reach_px, high + window + self.reach_px)
        corner, size = self._frame(low, high, places)
        image = self.slide.read_region(
            *(corner * step).tolist(), width=int(size[0]), height=int(size[1]), downsample=step
        )
        near = self._others(low - self.reach_px * 2, high + self.reach_px * 2, nuclei)
        rings = [self.outlines.of(n) / step - corner for n in (*nuclei, *near)]
        drawn = draw_nuclei(rings, (int(size[1]), int(size[0])))
        place = (int(corner[0]), int(corner[1]))
        labels, middles = divide_background(
            drawn, ours=len(nuclei), corner=place, block=block, cell=self.grid.cell, cells=CELLS_A_BLOCK
        )
        scene = Scene(
            image=image,
            labels=labels,
            nuclei=len(nuclei),
            features=len(nuclei) + len(middles),
            centres=places.points_px / step - corner,
            weights=places.weights,
            mpp=self.card.mpp,
        )
        centroids = self.outlines.centroids_px[nuclei] / step - corner
        return Block(scene, nuclei, np.concatenate([centroids, middles]), drawn >= 0, place)

    def _frame(
        self, low: NDArray[np.float64], high: NDArray[np.float64], places: Places
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return corner and size of the picture that holds the block, its nuclei and all windows, encoder pixels."""
        step, margin = self.grid.downsample, self.card.tile_px // 2 + 1
        edges = np.stack([low - self.reach_px, high + self.reach_px]) / step
        windows = places.points_px / step
        first = np.floor(np.minimum(edges[0], windows.min(axis=0, initial=np.inf) - margin)).astype(np.int64)
        first -= first % self.card.align_px
        last = np.ceil(np.maximum(edges[1], windows.max(axis=0, initial=-np.inf) + margin)).astype(np.int64)
        if not self.card.pads_edges:
            limit = np.array([int(self.slide.width / step), int(self.slide.height / step)])
            first, last = np.clip(first, 0, limit - 1), np.clip(last, 1, limit)
        return first, last - first

    def _others(self, low: NDArray[np.float64], high: NDArray[np.float64], ours: NDArray[np.intp]) -> list[int]:
        """Return nuclei of other blocks that may lie over this one."""
        centroids = self.outlines.centroids_px
        near = ((centroids >= low) & (centroids <= high)).all(axis=1)
        others: list[int] = np.setdiff1d(np.flatnonzero(near), ours).tolist()
        return others
