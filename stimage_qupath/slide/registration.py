"""Whether two pictures of the same nuclei lie on each other: haematoxylin of the H&E, and DAPI of the same section.

Both are dark (bright) where nuclei are, so that their correlation is highest at the right shift (phase correlation
would look at edges, which the two stains draw differently). The peak is found in Fourier space over all shifts at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Float = NDArray[np.float64]

BLUR_UM: Final = 4.0
"""Of both pictures before they are compared: half a nucleus, so that a shift of a few um still overlaps."""
BACKGROUND_UM: Final = 50.0
"""Changes slower than this are illumination and cell density, which many shifts fit."""
GOOD_CORRELATION: Final = 0.3
"""Under it the pictures hardly show the same nuclei."""
GOOD_SHIFT_UM: Final = 4.0
"""Over it labels fall on neighbours: half the distance of nuclei that touch."""


@dataclass(frozen=True, slots=True)
class Registration:
    """How well two pictures lie on each other.

    Attributes
    ----------
    shift_um
        x and y by which the second must move to fit the first best.
    correlation
        At that shift.
    correlation_as_is
        Without it.
    """

    shift_um: tuple[float, float]
    correlation: float
    correlation_as_is: float

    @property
    def distance_um(self) -> float:
        """Length of the shift."""
        return float(np.hypot(*self.shift_um))

    @property
    def warning(self) -> str | None:
        """What to tell the user, or None where all is well."""
        if self.correlation < GOOD_CORRELATION:
            return (
                f"expected haematoxylin and DAPI of the same nuclei, found a correlation of {self.correlation:.2f} at "
                "best; check that both are of this section, and the alignment"
            )
        if self.distance_um > GOOD_SHIFT_UM:
            x, y = self.shift_um
            return (
                f"expected DAPI within {GOOD_SHIFT_UM:g} um of the haematoxylin, found it fits best moved by x {x:.1f} "
                f"and y {y:.1f} um; improve the alignment in Xenium Explorer"
            )
        return None

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON has them."""
        return {
            "shift_um": list(self.shift_um),
            "correlation": self.correlation,
            "correlation_as_is": self.correlation_as_is,
            "warning": self.warning,
        }


def register(hematoxylin: Float, dapi: Float, *, mpp: float, most_um: float = 100.0) -> Registration:
    """Return the shift at which two pictures of nuclei fit best.

    Parameters
    ----------
    hematoxylin
        (row, col) optical density, larger where nuclei are.
    dapi
        (row, col) intensity on the same grid.
    mpp
        Pixel size of both, um.
    most_um
        Largest shift to look at in x and y, um.

    Raises
    ------
    ValueError
        The pictures differ in size, or one of them is flat.
    """
    if hematoxylin.shape != dapi.shape or hematoxylin.ndim != 2:
        msg = f"expected two pictures of one size, found {hematoxylin.shape} and {dapi.shape}"
        raise ValueError(msg)
    fixed, moving = (_prepared(picture, mpp) for picture in (hematoxylin, dapi))
    if not (fixed.any() and moving.any()):
        msg = "expected nuclei in both pictures, found a flat one"
        raise ValueError(msg)
    scores, reach = _correlations(fixed, moving, round(most_um / mpp))
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    shift = ((int(column) - reach[1]) * mpp, (int(row) - reach[0]) * mpp)
    return Registration(shift, float(scores[row, column]), float(scores[reach]))


def _prepared(picture: Float, mpp: float) -> Float:
    """Return a picture without what is smaller or much larger than a nucleus; flat pictures become 0."""
    smooth = ndimage.gaussian_filter(picture.astype(np.float64), BLUR_UM / mpp)
    band = smooth - ndimage.gaussian_filter(smooth, BACKGROUND_UM / mpp)
    return np.asarray(band - band.mean()) if np.ptp(band) > 0 else np.zeros_like(band)


def _correlations(fixed: Float, moving: Float, most_px: int) -> tuple[Float, tuple[int, int]]:
    """Return the correlation over the overlap for each shift up to ``most_px``, and where shift 0 stands in it.

    With m the masks, n = m (x) m and a, b the pictures, the sums over the overlap are themselves correlations of
    a, a^2, b, b^2 and the masks (Padfield 2012, doi 10.1109/TIP.2011.2181402).
    """
    reach = tuple(min(most_px, size // 2) for size in fixed.shape)
    shape = [fft.next_fast_len(size + r, real=True) for size, r in zip(fixed.shape, reach, strict=True)]

    def spectrum(values: Float) -> NDArray[np.complex128]:
        return np.asarray(fft.rfft2(values, shape))

    def sums(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> Float:
        full = fft.irfft2(a * b.conj(), shape)
        rows, columns = (np.arange(-r, r + 1) for r in reach)
        return np.asarray(full[np.ix_(rows, columns)])

    mask = spectrum(np.ones(fixed.shape))
    first, second = spectrum(fixed), spectrum(moving)
    n = np.maximum(sums(mask, mask), 1)
    mean_a, mean_b = sums(first, mask) / n, sums(mask, second) / n
    covariance = sums(first, second) / n - mean_a * mean_b
    variance_a = sums(spectrum(fixed**2), mask) / n - mean_a**2
    variance_b = sums(mask, spectrum(moving**2)) / n - mean_b**2
    spread = np.sqrt(np.maximum(variance_a, 0) * np.maximum(variance_b, 0))
    scores = np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 1e-12)
    return scores, (reach[0], reach[1])
