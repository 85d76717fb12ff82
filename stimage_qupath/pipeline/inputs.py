"""What every flow over one image begins with: regions, pixels, pixel size; checked in that order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from stimage_qupath.config import PredictSettings, SegmentSettings
from stimage_qupath.errors import AnnotationError, ImageError
from stimage_qupath.regions.annotations import clip_to_image, read_regions, select_regions
from stimage_qupath.regions.tissue import find_tissue
from stimage_qupath.regions.whole import whole_slide
from stimage_qupath.results import Region
from stimage_qupath.slide.calibration import slide_pixel_size
from stimage_qupath.slide.plane import Plane
from stimage_qupath.slide.reader import Slide
from stimage_qupath.slide.view import open_view, plane_of


@dataclass(frozen=True, slots=True)
class Input:
    """An open image and what is to be done on it.

    Attributes
    ----------
    slide
        Open slide.
    mpp
        um per level-0 pixel.
    regions
        Regions within the image, in the order of the file.
    image_id
        Identity of the file's bytes.
    warnings
        What the user should know.
    """

    slide: Slide
    mpp: float
    regions: tuple[Region, ...]
    image_id: str
    warnings: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return what ``run.json`` says of the image."""
        return {
            "name": self.slide.path.name,
            "content_id": self.image_id,
            "width": self.slide.width,
            "height": self.slide.height,
            "mpp": self.mpp,
            "mpp_of_file": self.slide.mpp,
            "reader": self.slide.reader,
            "read_tiles": self.slide.read_tiles,
            "bad_tiles": self.slide.bad_tiles,
        }

    def check_tiles(self, max_bad_tiles: float) -> tuple[str, ...]:
        """Raise :class:`ImageError` if too many tiles were unreadable; else return a warning if any were."""
        bad, read = self.slide.bad_tiles, self.slide.read_tiles
        if bad > max_bad_tiles * read:
            msg = (
                f"expected at most {max_bad_tiles:.1%} unreadable tiles in {self.slide.path.name}, found {bad} of "
                f"{read}; the file is damaged: copy it again, or pass --max-bad-tiles"
            )
            raise ImageError(msg)
        return (f"{bad} of {read} tiles could not be read and count as white",) if bad else ()


@contextmanager
def open_input(settings: SegmentSettings) -> Iterator[Input]:
    """Read the regions, open the image, settle its pixel size; close the image at the end.

    Raises
    ------
    UsageError, AnnotationError
        The regions, or the path of the image.
    ImageError
        The image.
    CalibrationError
        Its pixel size.
    """
    chosen, warnings = _annotations(settings)
    view, plane = _plane(settings, chosen)
    with open_view(settings.image, view) as slide:
        if chosen is not None:
            chosen, clipped = clip_to_image(chosen, slide.width, slide.height)
            warnings += clipped
        mpp = slide_pixel_size(slide, settings.mpp)
        found = [] if chosen is not None else _not_annotated(settings, slide, mpp)
        regions = chosen or [replace(region, z=plane.z, t=plane.t) for region in found]
        if not regions:
            msg = (
                f"expected tissue in {settings.image.name}, found none; pass --annotations with the area to analyse, "
                "and check --mpp"
            )
            raise AnnotationError(msg)
        yield Input(slide, mpp, tuple(regions), slide.content_id(), tuple(warnings))


def _not_annotated(settings: SegmentSettings, slide: Slide, mpp: float) -> list[Region]:
    """Return the tissue; the whole slide where the user's nuclei say where to look."""
    if isinstance(settings, PredictSettings) and settings.nuclei is not None:
        return [whole_slide(slide)]
    return find_tissue(slide, mpp)


def _plane(settings: SegmentSettings, regions: list[Region] | None) -> tuple[tuple[str, ...], Plane]:
    """Return the view to open, which reads the plane of the annotations, and that plane."""
    plane = plane_of(settings.view)
    planes = sorted({(region.z, region.t) for region in regions or ()}) or [(plane.z, plane.t)]
    if len(planes) > 1:
        listed = "; ".join(f"z {z}, t {t}" for z, t in planes[:5])
        msg = f"expected annotations of one plane, found some of {listed}; choose those of one by name, class or id"
        raise AnnotationError(msg)
    z, t = planes[0]
    if (z, t) == (plane.z, plane.t):
        return settings.view, plane
    if plane.z or plane.t:
        msg = f"expected annotations of z {plane.z}, t {plane.t}, which is to be read, found some of z {z}, t {t}"
        msg += "; draw them on that plane"
        raise AnnotationError(msg)
    return (f"plane {z},{t}", *settings.view), replace(plane, z=z, t=t)


def _annotations(settings: SegmentSettings) -> tuple[list[Region] | None, list[str]]:
    """Return the selected annotations, or None where tissue is to be found."""
    if settings.annotations is None:
        if settings.classes or settings.region_names or settings.region_ids:
            msg = "expected --annotations with a selection by class, name or id, found none; pass the GeoJSON file"
            raise AnnotationError(msg)
        return None, []
    found = read_regions(settings.annotations)
    skipped = ", ".join(f"{n} x {kind}" for kind, n in found.skipped.items())
    regions = select_regions(
        found.regions, classes=settings.classes, names=settings.region_names, ids=settings.region_ids
    )
    return regions, [f"not an area annotation, left out: {skipped}"] if skipped else []
