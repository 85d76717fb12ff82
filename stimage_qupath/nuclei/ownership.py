"""Which nucleus belongs to which region, and which of two blocks keeps a nucleus that both saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

from stimage_qupath.results import Region

_SAME_NUCLEUS: Final = 0.5  # share of the smaller of two outlines that the other covers


class RegionOwners:
    """The rule that gives a nucleus to the smallest selected region that contains its centroid.

    Parameters
    ----------
    regions
        The selection. Of equally large regions the earlier one wins.
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        self._geometries = np.array([region.geometry for region in regions], dtype=object)
        shapely.prepare(self._geometries)
        rank = np.argsort(np.argsort(shapely.area(self._geometries), kind="stable"))
        tree = shapely.STRtree(self._geometries)
        region, other = tree.query(self._geometries, predicate="intersects")
        smaller = rank[other] < rank[region]
        self._rivals = [other[smaller & (region == i)] for i in range(len(regions))]

    def owned(self, index: int, centroids_px: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which nuclei region ``index`` owns, (nucleus,) bool; holes of a region are outside it."""
        x, y = centroids_px[:, 0], centroids_px[:, 1]
        owned = np.asarray(shapely.contains_xy(self._geometries[index], x, y))
        for rival in self._rivals[index]:
            owned &= ~shapely.contains_xy(self._geometries[rival], x, y)
        return owned


class Seams:
    """Nuclei near the seams of the blocks so far, so that a later block does not repeat them.

    With enough context two blocks see the same nucleus alike, and its centroid decides. What is left is a nucleus whose
    centroid falls within the tolerance of a seam, or of which the blocks differ: then the block that comes first in the
    grid keeps its own. The rule looks at what neighbours found, not at what they kept, so that a nucleus's fate
    depends on its neighbourhood alone and not on which blocks were visited.

    Parameters
    ----------
    size_px
        Side of a block, level-0 px.
    reach_px
        How far a nucleus may extend over a seam, level-0 px.
    """

    def __init__(self, *, size_px: float, reach_px: float) -> None:
        self._size_px = size_px
        self._reach_px = reach_px
        self._found: dict[tuple[int, int], NDArray[np.object_]] = {}

    def unseen(self, row: int, col: int, polygons: NDArray[np.object_]) -> NDArray[np.bool_]:
        """Take note of the nuclei of a block and return which of them no earlier neighbour found, (nucleus,) bool.

        Blocks come row by row, each row from left to right; some may be left out.
        """
        self._found = {place: found for place, found in self._found.items() if place[0] >= row - 1}
        self._found[row, col] = polygons[self._near_seam(row, col, polygons)]
        neighbours = [(row - 1, col - 1), (row - 1, col), (row - 1, col + 1), (row, col - 1)]
        earlier = np.concatenate([np.empty(0, dtype=object), *(self._found.get(place, ()) for place in neighbours)])
        unseen = np.ones(len(polygons), dtype=bool)
        mine, theirs = shapely.STRtree(earlier).query(polygons, predicate="intersects")
        shared = shapely.area(shapely.intersection(polygons[mine], earlier[theirs]))
        smaller = np.minimum(shapely.area(polygons[mine]), shapely.area(earlier[theirs]))
        unseen[mine[shared > _SAME_NUCLEUS * smaller]] = False
        return unseen

    def _near_seam(self, row: int, col: int, polygons: NDArray[np.object_]) -> NDArray[np.bool_]:
        left, top, right, bottom = shapely.bounds(polygons).reshape(-1, 4).T
        size, reach = self._size_px, self._reach_px
        return np.asarray(
            (left < col * size + reach)
            | (top < row * size + reach)
            | (right > (col + 1) * size - reach)
            | (bottom > (row + 1) * size - reach)
        )
