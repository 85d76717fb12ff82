"""What a nucleus segmenter must offer, so that a network and a formula can take each other's place.

A segmenter is calibrated once per slide; the result labels block after block, from many threads. Whatever the two
compute may depend on the slide and on nothing else: not on the regions that were selected, not on the block, so that a
nucleus has one outline however it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.results import Region
from stimage_qupath.slide.base import Slide


class BoundSegmenter(Protocol):
    """A segmenter that knows its slide; may be called from many threads at once."""

    def label(self, rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Label the nuclei of one block.

        Parameters
        ----------
        rgb
            (height, width, 3) uint8 at the segmenter's working pixel size, white outside the slide.

        Returns
        -------
        numpy.ndarray
            (height, width) int32: 0 is background, every nucleus has its own positive number. What is said of a pixel
            depends on the pixels within ``halo_um`` of its nucleus, not on where the block ends.
        """
        ...


class Segmenter(Protocol):
    """A way to find nuclei.

    Attributes
    ----------
    name
        What ``--segmenter`` and the run record call it.
    mpp
        Pixel size it works at, µm.
    halo_um
        Context that a block needs on each side, µm.
    stride
        Working pixels by which blocks must be apart to be seen alike: a network that halves its input three times tells
        an image from the same one moved by a pixel, not by eight. 1 where there is no such grid.
    identity
        Equal for segmenters that outline equally: settings, and a hash of the weights where there are some.
    """

    @property
    def name(self) -> str:
        """What ``--segmenter`` and the run record call it."""
        ...

    @property
    def mpp(self) -> float:
        """Pixel size it works at, µm."""
        ...

    @property
    def halo_um(self) -> float:
        """Context that a block needs on each side, µm."""
        ...

    @property
    def stride(self) -> int:
        """Working pixels by which blocks must be apart to be seen alike."""
        ...

    @property
    def identity(self) -> str:
        """Equal for segmenters that outline equally."""
        ...

    def calibrate(self, slide: Slide, mpp: float, regions: Sequence[Region]) -> BoundSegmenter:
        """Measure what the whole slide must share, for example one stain threshold.

        Parameters
        ----------
        slide
            Open slide.
        mpp
            Level-0 pixel size, µm.
        regions
            What is going to be segmented: tells how much work there is. No outline may depend on it.
        """
        ...
