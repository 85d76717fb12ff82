"""Where the files of one section are, and how a folder is searched for one of several names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["counts", "protein"]


@dataclass(frozen=True, slots=True)
class Source:
    """The cells of a dataset row that a reader needs.

    Attributes
    ----------
    counts
        File or folder with the values.
    spots
        File or folder with the places, where it is another one.
    alignment
        Table that carries the platform's own coordinates to the image, or None; see the platform's reader.
    kind
        ``counts``, or ``protein`` for intensities.
    coordinate_system
        Name of the frame that is the image's pixels, where the file has several.
    """

    counts: Path
    spots: Path | None = None
    alignment: str = ""
    kind: Kind = "counts"
    coordinate_system: str = "global"


def find_one(folder: Path, patterns: Sequence[str], *, what: str) -> Path:
    """Return the first thing in ``folder`` that a pattern matches, in the order of the patterns.

    Downloads carry the sample's name before the standard one (``V1_Breast_filtered_feature_bc_matrix.h5``), so each
    pattern also matches with anything before it.

    Raises
    ------
    ValueError
        None of them is there, or two of one kind.
    """
    for pattern in patterns:
        exact = folder / pattern
        if exact.exists():
            return exact
        prefixed = sorted(folder.glob(f"*_{pattern}"))
        if len(prefixed) > 1:
            msg = f"expected one {pattern} in {folder}, found {', '.join(p.name for p in prefixed)}; name the file"
            raise ValueError(msg)
        if prefixed:
            return prefixed[0]
    msg = f"expected {what} in {folder}, found none of {', '.join(patterns)}"
    raise ValueError(msg)
