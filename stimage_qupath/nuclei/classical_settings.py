"""Parameters of the classical segmenter."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, slots=True)
class ClassicalSettings:
    """Parameters of the classical segmenter; lengths in µm, areas in µm².

    Attributes
    ----------
    smoothing_um
        Sigma of the haematoxylin that is compared with the threshold.
    surroundings_um
        Side of the square whose mean haematoxylin is "the surroundings".
    surroundings_weight
        Weight of the surroundings in the threshold; the slide has the rest.
    least_of_slide
        The threshold is at least this multiple of the slide's.
    largest_hole_um2
        Holes up to this are filled.
    least_area_um2, most_area_um2
        Nuclei outside are dropped.
    density_weight
        By how much dense haematoxylin raises the relief.
    density_smoothing_um
        Sigma of the haematoxylin that raises the relief.
    pass_depth_um
        Basins whose pass is less deep than this are joined.
    edge_level
        Where between the ring around a nucleus (0) and its inside (1) its edge is drawn. People draw a little outside
        the half-maximum.
    edge_reach_um
        How far an edge may move outwards to reach that level.
    least_contrast
        Nuclei that exceed the ring around them by less than this multiple of the slide's threshold are dropped.
    least_ellipse_fit
        Nuclei with a lower :func:`~stimage_qupath.nuclei.ellipse.ellipse_fit` are dropped.
    most_bluer
        Nuclei whose eosin, as a share of their haematoxylin, is below -0.1 and further than this below the slide's
        nuclei are dropped: marking ink is as blue or green as that.
    """

    smoothing_um: float = 0.4
    surroundings_um: float = 25.0
    surroundings_weight: float = 0.5
    least_of_slide: float = 0.8
    largest_hole_um2: float = 60.0
    least_area_um2: float = 10.0
    most_area_um2: float = 600.0
    density_weight: float = 0.5
    density_smoothing_um: float = 1.5
    pass_depth_um: float = 0.3
    edge_level: float = 0.45
    edge_reach_um: float = 2.0
    least_contrast: float = 0.1
    least_ellipse_fit: float = 0.4
    most_bluer: float = 0.3

    def __post_init__(self) -> None:
        """Refuse negative numbers and an empty range of areas."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < np.inf:
                msg = f"expected {field.name} of at least 0, found {value}"
                raise ValueError(msg)
        if self.surroundings_weight > 1:
            msg = f"expected surroundings_weight of 0 to 1, found {self.surroundings_weight}"
            raise ValueError(msg)
        if self.least_area_um2 >= self.most_area_um2:
            msg = f"expected least_area_um2 below most_area_um2, found {self.least_area_um2} and {self.most_area_um2}"
            raise ValueError(msg)
