"""How much each label of an image looks like an ellipse, from its moments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ellipse_fit(labels: NDArray[np.int32], *, size: int) -> NDArray[np.float64]:
    """Return the area of each label over that of the ellipse with its second moments.

    An ellipse with covariance C has the area 4 pi sqrt(det C), so that the ratio is 1 for a filled ellipse, 3 / pi for
    any parallelogram, and falls with every bay, branch and gap.

    Parameters
    ----------
    labels
        (row, col) int32, 0 is background.
    size
        One more than the highest label.

    Returns
    -------
    numpy.ndarray
        (size,) float64; 0 for the background and for labels that do not occur.
    """
    row, col = np.nonzero(labels)
    label = labels[row, col]
    area = np.bincount(label, minlength=size).astype(np.float64)
    pixels = np.maximum(area, 1)
    mean_x, mean_y = (np.bincount(label, index, minlength=size) / pixels for index in (col, row))
    dx, dy = col - mean_x[label], row - mean_y[label]
    # A pixel is a unit square with variance 1/12 of its own.
    var_x, var_y = (np.bincount(label, d * d, minlength=size) / pixels + 1 / 12 for d in (dx, dy))
    covariance = np.bincount(label, dx * dy, minlength=size) / pixels
    return np.asarray(area / (4 * np.pi * np.sqrt(var_x * var_y - covariance**2)))
