"""Which image of a file, and which of its planes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from stimage_qupath.errors import ImageError


@dataclass(frozen=True, slots=True)
class Plane:
    """Address of a picture in a file that holds several.

    Attributes
    ----------
    series
        Number of the image within the file, as Bio-Formats and QuPath count.
    z, t
        Number in depth and in time within that image.
    """

    series: int = 0
    z: int = 0
    t: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers under 0."""
        if min(self.series, self.z, self.t) < 0:
            msg = f"expected a plane counted from 0, found {self}"
            raise ValueError(msg)

    def __str__(self) -> str:
        """Return the address as a message says it."""
        return f"series {self.series}, z {self.z}, t {self.t}"

    @property
    def is_first(self) -> bool:
        """Whether it is what a file with one picture holds."""
        return self == FIRST

    def refuse(self, name: str, *, found: str) -> NoReturn:
        """Raise the error for a file in which this plane is not to be had.

        Raises
        ------
        ImageError
            Always.
        """
        msg = f"expected {self} in {name}, found {found}; export that plane as an image of its own"
        raise ImageError(msg)


FIRST = Plane()
