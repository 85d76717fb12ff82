"""The page of a plane in a TIFF without OME metadata: ImageJ's hyperstacks and plain stacks of pages."""

from __future__ import annotations

from tifffile import TiffFile

from stimage_qupath.slide.plane import Plane


def stack_page(tif: TiffFile, plane: Plane) -> int:
    """Return the index of the page that holds ``plane``.

    ImageJ says how many slices and frames there are, channels running fastest and frames slowest. Of a plain stack
    nobody says whether its pages go into depth or through time; QuPath's readers do not agree, so either is taken.

    Raises
    ------
    ImageError
        It is of another series, or beyond what the file says it holds.
    """
    if plane.series:
        plane.refuse(tif.filename, found="no OME metadata, by which alone the images of a TIFF are counted")
    stated = tif.imagej_metadata
    if stated is None:
        if plane.z and plane.t:
            plane.refuse(tif.filename, found="a plain stack, which has but one direction")
        return plane.z or plane.t
    channels, slices, frames = (int(stated.get(key, 1)) for key in ("channels", "slices", "frames"))
    if plane.z >= slices or plane.t >= frames:
        plane.refuse(tif.filename, found=f"{slices} in depth and {frames} in time")
    return (plane.t * slices + plane.z) * channels
