"""What the viewer of a run's report can colour the nuclei by, packed so that a page of 50,000 nuclei stays small.

A value is a whole number of 16 bits between the layer's least and largest; that is 1/65,534 of its range, less than the
model knows. A place is one of 16 bits for each axis, which is 1.5 px on a slide of 100,000.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

Scale = Literal["sequential", "doubt", "diverging", "classes"]

MISSING: Final = 65_535
LEVELS: Final = 65_534
MOST_BYTES: Final = 14_000_000
"""Of packed layers, before base64 makes a third more of them: with the picture the page stays under 25 MB."""
STEPS: Final = 64
COLOUR_MAPS: Final = {"sequential": "viridis", "doubt": "cividis", "diverging": "PuOr_r"}
"""Each keeps its order for the colour-blind and in print (Crameri, Shephard and Heron, Nat. Commun. 11:5444, 2020)."""
CLASS_COLOURS: Final = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8a6fb0", "#6b7a1e", "#7a7a7a",
)  # fmt: skip
"""After M. Okabe and K. Ito, Color Universal Design, 2008; told apart by any kind of colour vision."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One thing to colour nuclei by.

    Attributes
    ----------
    gene
        Gene it is of, or None.
    quantity
        ``mean``, ``total SD``, ...; for layers without a gene, their name.
    unit
        Under the legend.
    values
        (nucleus,) numbers, NaN for none; codes of ``classes`` where there are.
    scale
        Which colours: ``sequential``, ``doubt`` for uncertainties, ``diverging`` about 0, or ``classes``.
    classes
        Name and colour of each code.
    """

    gene: str | None
    quantity: str
    unit: str
    values: NDArray[np.floating[Any]]
    scale: Scale = "sequential"
    classes: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        """Refuse classes without names."""
        if (self.scale == "classes") != bool(self.classes):
            msg = f"expected classes exactly with the scale 'classes', found {self.scale} and {len(self.classes)}"
            raise ValueError(msg)

    def packed(self, shown: NDArray[np.intp]) -> tuple[dict[str, Any], str]:
        """Return what the page needs to know of the layer, and its values at ``shown`` as base64 of little-endian."""
        values = np.asarray(self.values, dtype=np.float64)[shown]
        known = np.isfinite(values)
        low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
        about: dict[str, Any] = {"gene": self.gene, "quantity": self.quantity, "unit": self.unit, "scale": self.scale}
        if self.scale == "classes":
            codes = np.where(known, np.nan_to_num(values), MISSING)
            return about | {"classes": [list(pair) for pair in self.classes]}, _base64(codes)
        spread = high - low
        scaled = np.zeros_like(values) if spread == 0 else (np.nan_to_num(values, nan=low) - low) / spread * LEVELS
        about |= {"low": low, "high": high, "limits": colour_limits(values[known], self.scale)}
        return about, _base64(np.where(known, np.rint(scaled), MISSING))


def colour_limits(values: NDArray[np.float64], scale: Scale) -> list[float]:
    """Return the values that get the first and the last colour: the 1st and 99th percentile, or about 0 both ways."""
    if not len(values):
        return [0.0, 1.0]
    if scale == "diverging":
        most = float(np.percentile(np.abs(values), 99)) or float(np.abs(values).max()) or 1.0
        return [-most, most]
    low, high = np.percentile(values, [1, 99]).tolist()
    return [low, high] if high > low else [low, low + (abs(low) or 1.0)]


def colour_tables() -> dict[str, list[str]]:
    """Return the colours of each scale, first to last."""
    found = {}
    for scale, name in COLOUR_MAPS.items():
        rgb = np.rint(colormaps[name](np.linspace(0, 1, STEPS))[:, :3] * 255).astype(int)
        found[scale] = ["#{:02x}{:02x}{:02x}".format(*row) for row in rgb.tolist()]
    return found


def shown_nuclei(nuclei: int, layers: int) -> NDArray[np.intp]:
    """Return which nuclei the page holds: all, or every so many where the page would grow beyond its size."""
    per_nucleus = 2 * (layers + 3)
    most = max(1, MOST_BYTES // per_nucleus)
    return np.arange(0, nuclei, max(1, -(-nuclei // most)))


def packed_places(points: NDArray[np.float64], size: tuple[float, float]) -> str:
    """Return x and y of each nucleus, interleaved, as base64 of 16-bit shares of the slide's ``size``."""
    shares = np.clip(points / np.asarray(size), 0, 1)
    return _base64(np.rint(shares * MISSING).ravel())


def packed_flags(flags: NDArray[np.bool_]) -> str:
    """Return flags as base64, one byte each."""
    return base64.b64encode(flags.astype(np.uint8).tobytes()).decode("ascii")


def _base64(numbers: NDArray[np.float64]) -> str:
    return base64.b64encode(numbers.astype("<u2").tobytes()).decode("ascii")
