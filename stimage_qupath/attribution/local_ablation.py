"""Feature ablation for encoders of window means: exact, at the price of a small picture a feature.

A replaced nucleus changes the maps within the encoder's reach and nowhere else. So the maps are computed anew only
there, from a cut-out of the block, many of which make one picture; the change of a window mean is the change of the
maps within window and reach, from a summed-area table of the cut-out, however many places look at the nucleus.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stimage_qupath.attribution.capabilities import LocalEncoder
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Scene
from stimage_qupath.results import stop_if

PICTURE_PIXELS = 2**19
"""Of the cut-outs whose maps are computed together: little enough to stay near the processor."""
PAIRS_AT_ONCE = 4096
"""Places and features whose statistics are held in memory together."""


def local_sums(
    scene: Scene, filled: NDArray[np.uint8], encoder: LocalEncoder, question: Question
) -> NDArray[np.float64]:
    """Return, for each feature, the sum over places of weight x output lost without it, (feature, output).

    Parameters
    ----------
    scene
        Block and places.
    filled
        What stands where something is removed, the shape of the image.
    encoder
        The question's encoder, as one of window means.
    question
        Outputs and means.
    """
    sums = np.zeros((scene.features, question.outputs.count))
    boxes = feature_boxes(scene.labels, scene.features)
    windows = encoder.corners(scene.centres, scene.image.shape)
    boxes[~_are_seen(boxes, windows, encoder.reach_px)] = 0
    if not boxes.any():
        return sums
    means = _window_means(encoder, scene.image, windows)
    before = question.outputs.of_arrays(encoder.statistics(means))
    cut_outs = _CutOuts(scene, filled, encoder, boxes)
    for features in _batches(boxes, scene.nuclei, encoder.reach_px):
        stop_if(question.cancelled)
        place, member = _pairs(windows, cut_outs.zones(features))
        change = np.stack(
            [
                _sums_where_both(table, windows[:, :, place], cut_outs.zones(features), member)
                for table in cut_outs.changes(features)
            ],
            axis=-1,
        )
        change /= _areas(windows[:, :, place]).T[..., None]
        for start in range(0, len(place), PAIRS_AT_ONCE):
            rows = slice(start, start + PAIRS_AT_ONCE)
            after = question.outputs.of_arrays(encoder.statistics(means[place[rows]] + change[rows]))
            lost = scene.weights[place[rows], None] * (before[place[rows]] - after)
            np.add.at(sums, features[member[rows]], lost)
    return sums


def feature_boxes(labels: NDArray[np.int32], features: int) -> NDArray[np.intp]:
    """Return left, top, right, bottom of each feature, (feature, 4); right and bottom exclusive, empty ones all 0."""
    boxes = np.zeros((features, 4), dtype=np.intp)
    for feature, found in enumerate(ndimage.find_objects(labels + 1, max_label=features)):
        if found is not None:
            rows, columns = found
            boxes[feature] = columns.start, rows.start, columns.stop, rows.stop
    return boxes


def _are_seen(boxes: NDArray[np.intp], windows: NDArray[np.intp], reach: int) -> NDArray[np.bool_]:
    """Return which features some window can notice, (feature,); the others are not worth a picture."""
    seen = np.zeros(len(boxes), dtype=bool)
    there = np.flatnonzero(boxes[:, 2] > boxes[:, 0])
    seen[there[_pairs(windows, boxes[there] + np.array([-reach, -reach, reach, reach]))[1]]] = True
    return seen


class _CutOuts:
    """Features with their surroundings, as they are and replaced.

    Filters reflect the picture at its edge; the block is mirrored there, so that a cut-out shows what they see.
    """

    def __init__(self, scene: Scene, filled: NDArray[np.uint8], encoder: LocalEncoder, boxes: NDArray[np.intp]) -> None:
        self._encoder, self._boxes, self._reach = encoder, boxes, encoder.reach_px
        margin = 2 * self._reach
        around = ((margin, margin), (margin, margin))
        self._image, self._filled = (np.pad(p, (*around, (0, 0)), mode="symmetric") for p in (scene.image, filled))
        self._labels = np.pad(scene.labels, around, mode="symmetric")
        there = boxes[boxes[:, 2] > boxes[:, 0]]
        height, width = scene.labels.shape
        self._left, self._top = np.maximum(there[:, :2].min(axis=0) - margin, 0).tolist()
        right, bottom = np.minimum(there[:, 2:].max(axis=0) + margin, (width, height)).tolist()
        self._maps = list(encoder.maps(scene.image[self._top : bottom, self._left : right]))

    def zones(self, features: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the boxes in which maps change, (feature, 4), those beyond the picture included."""
        reach = self._reach
        return np.asarray(self._boxes[features] + np.array([-reach, -reach, reach, reach]))

    def changes(self, features: NDArray[np.intp]) -> Iterator[NDArray[np.float64]]:
        """Yield, for each map, the summed-area tables of its change in the zones, (feature, row + 1, column + 1)."""
        boxes, reach = self._boxes[features], self._reach
        width, height = ((boxes[:, 2:] - boxes[:, :2]).max(axis=0) + 4 * reach).tolist()
        # A box starts, in the mirrored picture, where its cut-out starts in that picture.
        rows = np.minimum(boxes[:, 1, None] + np.arange(height), len(self._labels) - 1)[:, :, None]
        columns = np.minimum(boxes[:, 0, None] + np.arange(width), self._labels.shape[1] - 1)[:, None, :]
        gone = self._labels[rows, columns] == features[:, None, None]
        shown = np.where(gone[..., None], self._filled[rows, columns], self._image[rows, columns])
        inner = np.s_[:, reach : height - reach, reach : width - reach]
        shape = self._maps[0].shape
        old_rows = np.clip(rows[:, reach : height - reach] - 2 * reach - self._top, 0, shape[0] - 1)
        old_columns = np.clip(columns[..., reach : width - reach] - 2 * reach - self._left, 0, shape[1] - 1)
        for new, old in zip(self._encoder.maps(shown.reshape(-1, width, 3)), self._maps, strict=True):
            yield _summed_area(new.reshape(len(features), height, width)[inner] - old[old_rows, old_columns])


def _batches(boxes: NDArray[np.intp], nuclei: int, reach: int) -> Iterator[NDArray[np.intp]]:
    """Yield features of nearly the same size, as many as fit into one picture; nuclei and cells apart."""
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    for kind in (np.arange(nuclei), np.arange(nuclei, len(boxes))):
        there = kind[side[kind] > 0]
        there = there[np.argsort(side[there], kind="stable")]
        while len(there):
            most = max(1, PICTURE_PIXELS // int((side[there[0]] + 4 * reach) ** 2))
            yield there[:most]
            there = there[most:]


def _pairs(windows: NDArray[np.intp], boxes: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which places have a window over which boxes, as two equally long arrays of indices."""
    left, top = windows[:, :2].min(axis=0)  # of the widest window
    right, bottom = windows[:, 2:].max(axis=0)
    across = (left[:, None] < boxes[:, 2]) & (right[:, None] > boxes[:, 0])
    down = (top[:, None] < boxes[:, 3]) & (bottom[:, None] > boxes[:, 1])
    place, box = np.nonzero(across & down)
    return place, box


def _summed_area(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return sums from the top left corner, of the last two axes, with a row and a column of zeros before them."""
    *many, height, width = values.shape
    table = np.zeros((*many, height + 1, width + 1))
    np.cumsum(values, axis=-2, dtype=np.float64, out=table[..., 1:, 1:])
    np.cumsum(table[..., 1:, 1:], axis=-1, out=table[..., 1:, 1:])
    return table


def _sums_where_both(
    tables: NDArray[np.float64], windows: NDArray[np.intp], boxes: NDArray[np.intp], member: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return sums over the overlap of windows and boxes, (pair, window).

    Parameters
    ----------
    tables
        (box, row, column) summed-area tables.
    windows
        (window, 4, pair).
    boxes
        (box, 4).
    member
        (pair,) the box of each pair.
    """
    left, top, right, bottom = boxes[member].T
    x0, y0 = np.maximum(windows[:, 0], left) - left, np.maximum(windows[:, 1], top) - top
    x1, y1 = np.minimum(windows[:, 2], right) - left, np.minimum(windows[:, 3], bottom) - top
    apart = (x1 <= x0) | (y1 <= y0)
    x0, y0, x1, y1 = (np.where(apart, 0, edge) for edge in (x0, y0, x1, y1))
    sums = tables[member, y1, x1] - tables[member, y0, x1] - tables[member, y1, x0] + tables[member, y0, x0]
    return np.asarray(sums.T)


def _window_means(encoder: LocalEncoder, image: NDArray[np.uint8], windows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the mean of each map in each window, (place, window, map)."""
    x0, y0, x1, y1 = windows.transpose(1, 0, 2)
    tables = map(_summed_area, encoder.maps(image))
    sums = [(table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]).T for table in tables]
    return np.stack(sums, axis=-1) / _areas(windows).T[..., None]


def _areas(windows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the pixels of each window, (window, place)."""
    return np.asarray((windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1]))
