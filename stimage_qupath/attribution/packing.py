"""Features far enough apart to be removed together."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray


def pack(boxes: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Divide boxes into few groups of which no two overlap, by colouring greedily in reading order.

    Parameters
    ----------
    boxes
        (feature, 4) left, top, right, bottom; right and bottom exclusive. Empty boxes are in no group.

    Returns
    -------
    list of ndarray
        Features of each group, ascending.
    """
    there = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    left, top, right, bottom = boxes[there].T
    # Integer boxes overlap when, shrunk by less than a pixel, they intersect.
    shapes = shapely.box(left, top, right - 0.5, bottom - 0.5)
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    order = np.lexsort((left, top))
    rank = np.empty(len(there), dtype=np.intp)
    rank[order] = np.arange(len(there))
    earlier = rank[other] < rank[one]
    one, other = one[earlier], other[earlier]
    by_one = np.argsort(one, kind="stable")
    starts = np.searchsorted(one[by_one], np.arange(len(there) + 1))
    rivals = other[by_one]
    group = np.zeros(len(there), dtype=np.intp)
    for item in order:
        taken = set(group[rivals[starts[item] : starts[item + 1]]].tolist())
        group[item] = next(g for g in range(len(taken) + 1) if g not in taken)
    return [there[group == g] for g in range(int(group.max()) + 1 if len(there) else 0)]
