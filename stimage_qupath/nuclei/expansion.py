"""Cells from nuclei: each nucleus grown by a distance, up to where another nucleus is nearer.

The border between two cells is that of the Voronoi diagram of points along the outlines of the nuclei (Okabe et al.
2000, "Spatial Tessellations", ISBN 978-0-471-98635-5). The diagram is read off the Delaunay triangulation: an edge
between points of two nuclei is dual to a piece of border, which joins the circumcentres of the edge's two triangles.
Only those pieces are made, so that each border exists once and the cells on its two sides share it exactly.

A cell depends on the nuclei within twice the distance of its own and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import Delaunay, cKDTree

from stimage_qupath import names
from stimage_qupath.nuclei.features import shape_measurements

SPACING_UM: Final = 0.75
"""Distance of points along an outline; a border runs at most an eighth of that off the middle, and less than the pixels
of the segmenters can tell."""
REACH_UM: Final = 20.0
"""How far a nucleus reaches from its centroid: half the length of the longest fibroblast's."""
_QUARTER_SEGMENTS: Final = 4  # of a buffer's round corner; outlines of nuclei turn little at each vertex
_WHOLE: Final = 1 - 1e-9
_DECIMALS: Final = 6  # of a pixel
_FRAME: Final = 4.0  # distances between the nuclei and the frame that closes the outermost cells


def cell_outlines(
    nuclei: NDArray[np.object_],
    kept: NDArray[np.intp],
    *,
    distance_px: float,
    spacing_px: float,
    slide_size: tuple[int, int],
) -> NDArray[np.object_]:
    """Return the outline of the cell around each of the nuclei ``kept``.

    Parameters
    ----------
    nuclei
        (nucleus,) valid shapely Polygons, level-0 px: those that get a cell and all within twice the distance of them.
    kept
        (cell,) which of them get a cell.
    distance_px
        How far a cell reaches beyond its nucleus at most, level-0 px.
    spacing_px
        Distance of the points along an outline, level-0 px.
    slide_size
        Width and height of the slide, level-0 px; no cell leaves it, unless its nucleus does.

    Returns
    -------
    numpy.ndarray
        (cell,) valid shapely Polygons. Each contains its nucleus; two share an area only where their nuclei do.
    """
    if not len(kept):
        return np.empty(0, dtype=object)
    tree = shapely.STRtree(nuclei)
    near = np.unique(tree.query(nuclei[kept], predicate="dwithin", distance=2 * distance_px)[1])
    own, position = nuclei[kept], np.searchsorted(near, kept)
    grown = shapely.buffer(own, distance_px, quad_segs=_QUARTER_SEGMENTS)
    if len(near) > 1:
        nearest = _nearest_areas(nuclei[near], margin_px=_FRAME * distance_px, spacing_px=spacing_px)[position]
        grown = shapely.intersection(grown, nearest)
    low_x, low_y, high_x, high_y = shapely.bounds(grown).T
    leaves = (low_x < 0) | (low_y < 0) | (high_x > slide_size[0]) | (high_y > slide_size[1])
    grown[leaves] = shapely.intersection(grown[leaves], shapely.box(0, 0, *slide_size))
    return _around(own, _without_others(grown, kept, nuclei, tree), least_hole_px2=spacing_px**2)


def cell_measurements(
    nuclei: NDArray[np.object_], cells: NDArray[np.object_], *, mpp: float
) -> dict[str, NDArray[np.float32]]:
    """Measure cells under QuPath's names.

    Parameters
    ----------
    nuclei
        (cell,) shapely Polygons, level-0 px.
    cells
        (cell,) shapely Polygons around them; None where there is none, which gives NaN.
    mpp
        Level-0 pixel size, µm.

    Returns
    -------
    dict
        Name (see :mod:`stimage_qupath.names`) to (cell,) float32.
    """
    there = np.flatnonzero(~shapely.is_missing(cells))
    measured = shape_measurements(cells[there], mpp=mpp)
    shapes = {names.CELL_SHAPES[name]: values for name, values in measured.items()}
    shapes[names.AREA_RATIO] = (shapely.area(nuclei[there]) / shapely.area(cells[there])).astype(np.float32)
    result = {name: np.full(len(cells), np.nan, dtype=np.float32) for name in shapes}
    for name, values in shapes.items():
        result[name][there] = values
    return result


def _nearest_areas(nuclei: NDArray[np.object_], *, margin_px: float, spacing_px: float) -> NDArray[np.object_]:
    """Return for each nucleus the area in which it is the nearest, (nucleus,) Polygons.

    Where rounding loses one, the nucleus itself stands for it: a cell without cytoplasm is wrong for it alone.
    """
    sites, owner = _sites(nuclei, margin_px=margin_px, spacing_px=spacing_px)
    triangulation = Delaunay(sites - np.floor(sites.min(axis=0)))  # near the origin, where squares keep their digits
    borders = _borders(sites, owner, triangulation)
    faces = np.asarray(shapely.get_parts(shapely.polygonize(borders)))
    broken = ~shapely.is_valid(faces)
    faces[broken] = shapely.buffer(faces[broken], 0)
    faces = faces[~shapely.is_empty(faces)]
    _, nearest = cKDTree(sites).query(shapely.get_coordinates(shapely.point_on_surface(faces)))
    areas = nuclei.copy()
    for nucleus, parts in _grouped(owner[nearest], faces):
        if nucleus >= 0:
            areas[nucleus] = parts[0] if len(parts) == 1 else shapely.union_all(parts)
    return areas


def _grouped(key: NDArray[np.intp], values: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield each different key, and the values that have it."""
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-2))
    for part in np.split(order, starts[1:]) if len(order) else ():
        yield int(key[part[0]]), values[part]


def _sites(
    nuclei: NDArray[np.object_], *, margin_px: float, spacing_px: float
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return points along the outlines and the nucleus each is of; four points of -1 frame them all."""
    rings = shapely.segmentize(shapely.get_exterior_ring(nuclei), spacing_px)
    xy, owner = shapely.get_coordinates(rings, return_index=True)
    is_open = np.diff(owner, append=-1) == 0  # the last point of a ring is its first
    xy, owner = xy[is_open], owner[is_open]
    low, high = xy.min(axis=0) - margin_px, xy.max(axis=0) + margin_px
    frame = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
    return np.concatenate([xy, frame]), np.concatenate([owner, np.full(len(frame), -1)])


def _borders(sites: NDArray[np.float64], owner: NDArray[np.intp], triangulation: Delaunay) -> NDArray[np.object_]:
    """Return the pieces of the Voronoi diagram between points of different nuclei, (piece,) LineStrings."""
    triangles, beside = triangulation.simplices, triangulation.neighbors
    centres = _circumcentres(sites, triangles)
    pieces = []
    for corner in range(3):
        one, other = triangles[:, (corner + 1) % 3], triangles[:, (corner + 2) % 3]
        chosen = np.flatnonzero((beside[:, corner] > np.arange(len(triangles))) & (owner[one] != owner[other]))
        pieces.append(np.stack([centres[chosen], centres[beside[chosen, corner]]], axis=1))
    ends = np.concatenate(pieces)
    return np.asarray(shapely.linestrings(ends[(ends[:, 0] != ends[:, 1]).any(axis=1)]))


def _circumcentres(sites: NDArray[np.float64], triangles: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the centre of the circle through the corners of each triangle, (triangle, 2).

    The corners are taken in the order of their coordinates, so that a triangle has the same centre to the last bit in
    whatever company it is found. Four points on one circle make two triangles with one centre, once that is rounded.
    """
    rank = np.empty(len(sites), dtype=np.intp)
    rank[np.lexsort(sites.T)] = np.arange(len(sites))
    in_order = np.take_along_axis(triangles, np.argsort(rank[triangles], axis=1), axis=1)
    a, b, c = (sites[in_order[:, i]] for i in range(3))
    b, c = b - a, c - a
    twice_area = 2 * (b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0])
    b2, c2 = (b**2).sum(axis=1), (c**2).sum(axis=1)
    from_a = np.column_stack([c[:, 1] * b2 - b[:, 1] * c2, b[:, 0] * c2 - c[:, 0] * b2])
    flat = twice_area == 0  # three points on a line, which only the frame's sides hold
    return np.round(a + from_a / np.where(flat, np.inf, twice_area)[:, None], _DECIMALS)


def _without_others(
    cells: NDArray[np.object_], kept: NDArray[np.intp], nuclei: NDArray[np.object_], tree: shapely.STRtree
) -> NDArray[np.object_]:
    """Return cells without the nuclei of others, which the points along two touching outlines do not keep apart."""
    cell, other = tree.query(cells, predicate="intersects")
    foreign = other != kept[cell]
    cell, other = cell[foreign], other[foreign]
    for one, others in _grouped(cell, other):
        cells[one] = shapely.difference(cells[one], shapely.union_all(nuclei[others]))
    return cells


def _around(nuclei: NDArray[np.object_], cells: NDArray[np.object_], *, least_hole_px2: float) -> NDArray[np.object_]:
    """Return each cell with the whole of its nucleus, without pieces apart from it and without slits."""
    partial = ~shapely.covers(cells, nuclei)
    cells[partial] = shapely.union(cells[partial], nuclei[partial])
    for i in np.flatnonzero(shapely.get_type_id(cells) != shapely.GeometryType.POLYGON).tolist():
        parts = shapely.get_parts(cells[i])
        polygons = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
        shares = shapely.area(shapely.intersection(polygons, nuclei[i])) / nuclei[i].area
        is_whole = len(shares) > 0 and shares.max() > _WHOLE  # a nucleus whose neck rounding cut stays alone
        cells[i] = polygons[np.argmax(shares)] if is_whole else nuclei[i]
    for i in np.flatnonzero(shapely.get_num_interior_rings(cells)).tolist():
        holes = [ring for ring in cells[i].interiors if shapely.Polygon(ring).area >= least_hole_px2]
        cells[i] = shapely.Polygon(cells[i].exterior, holes)
    return cells
