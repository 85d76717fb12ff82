"""A single-dye image shown as H&E, so that people's outlines of nuclei in it can teach about H&E too.

Haematoxylin goes where the nuclei are, as dense as the dye was there; eosin goes beside them, as dense as the rest of
the tissue was, with slow changes over the image. Both colours vary a little from view to view.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_HAEMATOXYLIN: Final = np.array([0.65, 0.70, 0.29])  # optical density in red, green, blue; Ruifrok & Johnston 2001
_EOSIN: Final = np.array([0.10, 0.95, 0.25])
_COLOUR_SD: Final = 0.06
_LEAST_DENSITY: Final = 0.03  # of a background that is bare glass
_SPILL: Final = 0.6  # by how much eosin gives way to haematoxylin in a nucleus


def restained(rgb: NDArray[np.uint8], labels: NDArray[np.int32], *, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image of one dye as H&E.

    Parameters
    ----------
    rgb
        (row, col, 3), nuclei darker than the rest.
    labels
        (row, col): positive nuclei. Without any, or with nothing else, the image comes back as it is.
    rng
        Draws colours and amounts.
    """
    is_nucleus = labels > 0
    if not is_nucleus.any() or is_nucleus.all():
        return rgb
    density = -np.log((rgb + 1.0) / 256).mean(axis=-1)
    inside = ndimage.gaussian_filter(is_nucleus.astype(np.float64), 1.0)
    nuclear, other = np.median(density[is_nucleus]), max(_LEAST_DENSITY, np.median(density[~is_nucleus]))
    cloud = ndimage.gaussian_filter(rng.normal(size=density.shape), rng.uniform(3, 25))
    cloud = np.exp(0.3 * cloud / max(float(cloud.std()), 1e-9))
    blue = density / nuclear * (inside * rng.uniform(0.7, 1.5) + (1 - inside) * rng.uniform(0, 0.25))
    red = np.clip((density / other) ** rng.uniform(0.5, 1.2) * rng.uniform(0.15, 0.5) * cloud, 0, 1.2)
    haematoxylin, eosin = (colour + rng.normal(0, _COLOUR_SD, 3) for colour in (_HAEMATOXYLIN, _EOSIN))
    mixed = blue[..., None] * haematoxylin + ((1 - _SPILL * inside) * red)[..., None] * eosin
    return np.asarray(np.clip(256 * np.exp(-mixed) - 1, 0, 255), dtype=np.uint8)
