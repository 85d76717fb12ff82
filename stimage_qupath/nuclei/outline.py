"""From a label image to outlines in level-0 pixels, for all nuclei at once.

Every pixel side between a nucleus and something else is a crack; cracks point clockwise around their nucleus. The
successor of a crack follows from the two pixels ahead of it, so that all outlines are one permutation, and pointer
doubling (Wyllie 1979, "The complexity of parallel computations") puts every cycle of it in order without a loop over
nuclei. An outline joins the midpoints of its cracks, which is the contour of marching squares at one half: a nucleus of
n pixels without holes has area n - 1/2 there, whatever its shape.

The staircase is then smoothed and simplified. Both shrink what is round and may shift it, so that the result is scaled
to the area of its pixels and put back on their centroid.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

MAX_VERTICES: Final = 256
DECIMALS: Final = 6
"""Of coordinates: what lies beyond depends on where the image of labels began."""

# Sides of a pixel in clockwise order: top, right, bottom, left, as (row, column).
_AHEAD: Final = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])  # along the crack, the nucleus on its right
_OUTSIDE: Final = np.roll(_AHEAD, 1, axis=0)  # across the crack
_MIDPOINT: Final = np.array([(0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5)])  # x and y in the pixel
_SMOOTHING_PASSES: Final = 2


def outlines(
    labels: NDArray[np.int32], *, x: float, y: float, downsample: float, tolerance_px: float
) -> tuple[NDArray[np.int32], NDArray[np.object_]]:
    """Return the outline of every nucleus of a label image.

    Of a nucleus in several pieces (4-connected) the largest counts, with its holes filled.

    Parameters
    ----------
    labels
        (row, col) int32, 0 is background. Pixel (i, j) covers the level-0 square from
        ``(x + j * downsample, y + i * downsample)`` to ``(x + (j + 1) * downsample, y + (i + 1) * downsample)``.
    x, y
        Top-left corner of the label image, level-0 px.
    downsample
        Level-0 px per label pixel.
    tolerance_px
        How far simplification may move the outline, level-0 px.

    Returns
    -------
    values : numpy.ndarray
        (nucleus,) int32, the labels in rising order.
    polygons : numpy.ndarray
        (nucleus,) shapely Polygons, level-0 px: valid, without holes, at most 256 vertices.
    """
    values, rings, ring_of = _largest_rings(labels)
    if values.size == 0:
        return values, np.empty(0, dtype=object)
    raw = _polygons(rings, ring_of)
    polygons = _simplified(_polygons(_smoothed(rings, ring_of), ring_of), tolerance_px / downsample)
    broken = ~shapely.is_valid(polygons) | (shapely.area(polygons) <= 0)
    polygons[broken] = raw[broken]  # midpoints of cracks never cross
    polygons = _capped(polygons)
    return values, _placed(polygons, raw, x=x, y=y, downsample=downsample)


def _largest_rings(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.intp]]:
    """Return the labels, the vertices (x, y) of their longest outlines and the outline each vertex is of."""
    pixel, side, step = _cracks(labels)
    width = labels.shape[1] + 2
    cycle, order = _cycles(step)
    pixel, side = pixel[order], side[order]
    xy = np.stack([pixel % width - 1, pixel // width - 1], axis=1) + _MIDPOINT[side]
    starts = np.flatnonzero(np.diff(cycle, prepend=-1))
    label = np.pad(labels, 1).ravel()[pixel[starts]]
    area = _signed_areas(xy, starts)
    # Largest area first within a label; holes turn the other way and have negative area.
    best = np.lexsort((-area, label))
    best = best[np.diff(label[best], prepend=0) != 0]
    lengths = np.diff(starts, append=len(xy))
    kept = np.zeros(len(starts), dtype=bool)
    kept[best] = True
    rings = xy[np.repeat(kept, lengths)]
    # Cycles come in the order of their first crack; rename them to the order of the labels.
    rank = np.empty(len(best), dtype=np.intp)
    rank[np.argsort(label[kept], kind="stable")] = np.arange(len(best))
    ring_of = np.repeat(rank, lengths[kept])
    by_label = np.argsort(ring_of, kind="stable")
    return label[best], rings[by_label], ring_of[by_label]


def _cracks(labels: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return pixel (index into the padded image), side and successor of every crack."""
    padded = np.pad(labels, 1)
    width, flat = padded.shape[1], padded.ravel()
    ahead, outside = _AHEAD @ (width, 1), _OUTSIDE @ (width, 1)
    inside = np.flatnonzero(flat)
    keys = np.concatenate([4 * inside[flat[inside + outside[s]] != flat[inside]] + s for s in range(4)])
    keys.sort()
    pixel, side = keys // 4, keys % 4
    front = pixel + ahead[side]
    diagonal = front + outside[side]
    same_front = flat[front] == flat[pixel]
    same_diagonal = same_front & (flat[diagonal] == flat[pixel])
    # Right turn on the own pixel, straight on to the next, or left turn onto the diagonal one (4-connected).
    following = np.where(same_diagonal, diagonal, np.where(same_front, front, pixel))
    turn = np.where(same_diagonal, 3, np.where(same_front, 0, 1))
    return pixel, side, np.searchsorted(keys, 4 * following + (side + turn) % 4)


def _cycles(step: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the cycles of a permutation: name of each (its least member) and the members in order."""
    least, jump = np.arange(len(step)), step
    while True:
        lower = np.minimum(least, least[jump])
        if np.array_equal(lower, least):
            break
        least, jump = lower, jump[jump]
    last = least == np.arange(len(step))
    to_go, jump = np.where(last, 0, 1), np.where(last, np.arange(len(step)), step)
    while True:
        further = to_go + to_go[jump]
        if np.array_equal(further, to_go):
            break
        to_go, jump = further, jump[jump]
    order = np.lexsort((-to_go, least))
    return least[order], order


def _signed_areas(xy: NDArray[np.float64], starts: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the shoelace area of each ring, positive when clockwise on the screen (y down)."""
    if len(starts) == 0:
        return np.empty(0)
    following = xy[_next(starts, len(xy))]
    cross = xy[:, 0] * following[:, 1] - xy[:, 1] * following[:, 0]
    return np.asarray(np.add.reduceat(cross, starts) / 2)


def _next(starts: NDArray[np.intp], total: int) -> NDArray[np.intp]:
    """Return the index of the next vertex of the same ring."""
    following = np.arange(1, total + 1)
    following[np.append(starts[1:], total) - 1] = starts
    return following


def _smoothed(xy: NDArray[np.float64], ring_of: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return vertices averaged with their neighbours (1/4, 1/2, 1/4), which levels the staircase."""
    following = _next(np.flatnonzero(np.diff(ring_of, prepend=-1)), len(xy))
    before = np.empty_like(following)
    before[following] = np.arange(len(xy))
    for _ in range(_SMOOTHING_PASSES):
        xy = (xy[before] + 2 * xy + xy[following]) / 4
    return xy


def _polygons(xy: NDArray[np.float64], ring_of: NDArray[np.intp]) -> NDArray[np.object_]:
    return np.asarray(shapely.polygons(shapely.linearrings(xy, indices=ring_of)))


def _simplified(polygons: NDArray[np.object_], tolerance: float) -> NDArray[np.object_]:
    """Return simplified polygons, valid ones as valid ones.

    The quick way looks at one side after the other; where sides then cross it gives part of the polygon, and the other
    way, eight times as slow, takes over.
    """
    simple = np.asarray(shapely.simplify(polygons, tolerance, preserve_topology=False))
    is_polygon = (shapely.get_type_id(simple) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(simple)
    lost = np.abs(shapely.area(simple) - shapely.area(polygons)) > tolerance * shapely.length(polygons)
    again = ~is_polygon | lost | ~shapely.is_valid(simple)
    simple[again] = shapely.simplify(polygons[again], tolerance)
    return simple


def _capped(polygons: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return polygons of at most 256 vertices, simplified further only where there were more."""
    tolerance = 0.5
    while (many := shapely.get_num_coordinates(polygons) > MAX_VERTICES + 1).any():  # the first vertex counts twice
        polygons[many] = shapely.simplify(polygons[many], tolerance)
        tolerance *= 2
    return polygons


def _placed(
    polygons: NDArray[np.object_], raw: NDArray[np.object_], *, x: float, y: float, downsample: float
) -> NDArray[np.object_]:
    """Return polygons with the area and the centroid that ``raw`` stands for, in level-0 pixels."""
    xy, polygon_of = shapely.get_coordinates(polygons, return_index=True)
    from_centre = xy - shapely.get_coordinates(shapely.centroid(polygons))[polygon_of]
    scale = np.sqrt((shapely.area(raw) + 0.5) / shapely.area(polygons))[polygon_of, None]
    centre = shapely.get_coordinates(shapely.centroid(raw))[polygon_of]
    placed = (centre + from_centre * scale) * downsample + (x, y)
    return np.asarray(shapely.set_coordinates(polygons, np.round(placed, DECIMALS)))
