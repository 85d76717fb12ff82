"""What is to be explained, cut into blocks: outlines of nuclei, places whose predictions count, and their weights.

Everything is anchored at the slide's corner and computed from all nuclei of the run, so that a block gives the same
numbers alone, in any order and after an interruption.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

from stimage_qupath.models.encoders import EncoderCard

CELL_UM: Final = 32.0
"""Side of the grid that divides what lies between nuclei: three or four nuclei wide."""
CELLS_A_BLOCK: Final = 24
"""768 um: windows around and pixels of a block stay under 200 MB for every encoder of the package."""


@dataclass(frozen=True, slots=True)
class Outlines:
    """Nuclei of a run, in file order.

    Attributes
    ----------
    vertices
        (vertex, 2) float32, x and y in level-0 px.
    starts
        (nucleus + 1,) where the vertices of each nucleus begin, and the end.
    centroids_px
        (nucleus, 2) float64, level-0 px.
    """

    vertices: NDArray[np.float32]
    starts: NDArray[np.int64]
    centroids_px: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other."""
        if len(self.starts) != len(self.centroids_px) + 1 or self.starts[-1] != len(self.vertices):
            msg = f"expected outlines of {len(self.centroids_px)} nuclei, found {len(self.starts) - 1} with "
            msg += f"{len(self.vertices)} vertices"
            raise ValueError(msg)

    def __len__(self) -> int:
        """Return the number of nuclei."""
        return len(self.centroids_px)

    def of(self, nucleus: int) -> NDArray[np.float32]:
        """Return the vertices of one nucleus, (vertex, 2)."""
        return self.vertices[self.starts[nucleus] : self.starts[nucleus + 1]]

    def reach_px(self) -> float:
        """Return how far an outline gets from its centroid at most, level-0 px."""
        if not len(self):
            return 0.0
        owner = np.repeat(np.arange(len(self)), np.diff(self.starts))
        return float(np.abs(self.vertices - self.centroids_px[owner]).max())

    @classmethod
    def from_polygons(cls, polygons: NDArray[np.object_], centroids_px: NDArray[np.float64]) -> Outlines:
        """Return the outer rings of shapely polygons."""
        rings = shapely.get_exterior_ring(polygons)
        starts = np.concatenate([[0], np.cumsum(shapely.get_num_coordinates(rings))])
        return cls(shapely.get_coordinates(rings).astype(np.float32), starts.astype(np.int64), centroids_px)


@dataclass(frozen=True, slots=True)
class Places:
    """Where predictions are asked for.

    Attributes
    ----------
    points_px
        (place, 2) float64, x and y in level-0 px.
    weights
        (place,) float64, the predictions that rest on each; their sum is the number of nuclei.
    """

    points_px: NDArray[np.float64]
    weights: NDArray[np.float64]

    def near(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Places:
        """Return those within a box, level-0 px."""
        inside = ((self.points_px >= low) & (self.points_px <= high)).all(axis=1)
        return Places(self.points_px[inside], self.weights[inside])


def places_on_grid(centroids_px: NDArray[np.float64], stride_px: float) -> Places:
    """Return the nodes of a grid between which every nucleus interpolates, weighted by how much rests on them.

    A nucleus's prediction is nearly the bilinear mix of those at the four nodes around it (as in a prediction with a
    grid), so that a node counts with the sum of its shares.

    Parameters
    ----------
    centroids_px
        (nucleus, 2) x and y, level-0 px.
    stride_px
        Spacing of the nodes, level-0 px.
    """
    cell = np.floor(centroids_px / stride_px).astype(np.int64)
    fraction = centroids_px / stride_px - cell
    corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
    share = np.where(corners[None] == 1, fraction[:, None], 1 - fraction[:, None]).prod(axis=2)
    wanted = (cell[:, None] + corners).reshape(-1, 2)
    nodes, position = np.unique(wanted, axis=0, return_inverse=True)
    weights = np.bincount(position.ravel(), weights=share.ravel(), minlength=len(nodes)).astype(np.float64)
    kept = weights > 0
    return Places(nodes[kept] * stride_px, weights[kept])


@dataclass(frozen=True, slots=True)
class Grid:
    """Blocks and background cells in the encoder's pixels.

    Attributes
    ----------
    downsample
        Level-0 px per encoder pixel.
    cell
        Side of a background cell, encoder pixels.
    """

    downsample: float
    cell: int

    @classmethod
    def of(cls, card: EncoderCard, mpp: float) -> Grid:
        """Return the grid for an encoder on a slide of ``mpp`` um per level-0 px."""
        return cls(card.mpp / mpp, max(1, round(CELL_UM / card.mpp)))

    @property
    def block(self) -> int:
        """Side of a block, encoder pixels."""
        return self.cell * CELLS_A_BLOCK

    def blocks(self, centroids_px: NDArray[np.float64]) -> list[tuple[tuple[int, int], NDArray[np.intp]]]:
        """Return the (row, column) of each block that has nuclei, with those nuclei, row by row."""
        if not len(centroids_px):
            return []
        key = np.floor(centroids_px[:, ::-1] / (self.downsample * self.block)).astype(np.int64)
        keys, member = np.unique(key, axis=0, return_inverse=True)
        order = np.argsort(member.ravel(), kind="stable")
        groups = np.split(order, np.cumsum(np.bincount(member.ravel()))[:-1])
        return [((int(row), int(column)), group) for (row, column), group in zip(keys, groups, strict=True)]
