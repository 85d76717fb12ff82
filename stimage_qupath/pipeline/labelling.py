"""One person's annotations, read and laid over the nuclei of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from stimage_qupath.config import ValidateSettings
from stimage_qupath.errors import AnnotationError
from stimage_qupath.export.cell_outlines import read_outlines
from stimage_qupath.export.run_reader import Run
from stimage_qupath.nuclei.ownership import RegionOwners
from stimage_qupath.regions.annotations import read_regions
from stimage_qupath.regions.labels import match_labels, read_labels
from stimage_qupath.results import Region
from stimage_qupath.validation.annotations import Labelled, codes_of

Kind = Literal["annotations", "labels of nuclei"]


@dataclass(frozen=True, slots=True)
class Labelling:
    """What a person says of the nuclei of a run.

    Attributes
    ----------
    file
        Where it stands.
    kind
        Whether ``names`` come from annotations with areas or from labels of single nuclei.
    names
        (nucleus,) class of each nucleus, or None.
    annotation
        (nucleus,) number of the annotation that owns it, -1 for none.
    regions
        The annotations that count.
    own
        (nucleus,) labels of single nuclei, or None where the file holds none.
    warnings
        What was left out.
    """

    file: Path
    kind: Kind
    names: NDArray[np.object_]
    annotation: NDArray[np.intp]
    regions: tuple[Region, ...]
    own: NDArray[np.object_] | None
    warnings: tuple[str, ...]

    @property
    def classes(self) -> list[str]:
        """The classes that hold a nucleus, sorted."""
        return sorted({name for name in self.names.tolist() if name is not None})

    def labelled(self, classes: Sequence[str], positions_um: NDArray[np.float64]) -> Labelled:
        """Return the labels as codes of ``classes``."""
        return Labelled(tuple(classes), codes_of(self.names.tolist(), classes), self.annotation, positions_um)

    def area_of(self, name: str, by: str) -> shapely.Geometry:
        """Return the union of the annotations of a class, level-0 px."""
        return shapely.union_all([r.geometry for r in self.regions if key_of(r, by) == name])


def key_of(region: Region, by: str) -> str | None:
    """Return what an annotation counts as."""
    return region.classification if by == "class" else region.name


def read_labelling(
    path: Path, settings: ValidateSettings, finished: Run, centroids_px: NDArray[np.float64]
) -> Labelling:
    """Read a file of annotations and find the nuclei in them.

    A nucleus in several annotations is counted in the smallest. Labels of single nuclei take the place of areas only
    where the file holds no annotation with an area.

    Raises
    ------
    UsageError
        The file is missing.
    AnnotationError
        It is faulty, nothing in it has a class, or no nucleus of the run lies in any of it.
    """
    labels = read_labels(path)
    own = None
    if len(labels):
        outlines = _outlines(finished) if len(labels.points) else None
        own = match_labels(labels, centroids_px, outlines)
    regions, warnings = _regions(path, settings.by, finished) if labels.has_areas else ((), [])
    if not regions and own is None:
        what = "a class" if settings.by == "class" else "a name"
        msg = f"expected annotations with {what} in {path.name}, found none; set it in QuPath and export again"
        raise AnnotationError(msg)
    if regions:
        annotation = owners(regions, centroids_px)
        keys = np.array([*(key_of(region, settings.by) for region in regions), None], dtype=object)
        found = Labelling(path, "annotations", keys[annotation], annotation, regions, own, tuple(warnings))
    else:
        nowhere = np.full(len(centroids_px), -1)
        names = np.full(len(centroids_px), None, dtype=object) if own is None else own
        found = Labelling(path, "labels of nuclei", names, nowhere, (), own, tuple(warnings))
    if not found.classes:
        msg = (
            f"expected nuclei of the run inside the annotations of {path.name}, found none of {len(centroids_px)}; "
            "check that both are of the same image"
        )
        raise AnnotationError(msg)
    return found


def owners(regions: Sequence[Region], centroids_px: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the smallest region that holds each nucleus, -1 for none, (nucleus,)."""
    found = np.full(len(centroids_px), -1, dtype=np.intp)
    rule = RegionOwners(regions)
    x, y = centroids_px.T
    for number, region in enumerate(regions):
        left, top, right, bottom = region.geometry.bounds
        near = np.flatnonzero((x >= left) & (x <= right) & (y >= top) & (y <= bottom))
        found[near[rule.owned(number, centroids_px[near])]] = number
    return found


def _regions(path: Path, by: str, finished: Run) -> tuple[tuple[Region, ...], list[str]]:
    """Return the annotations that count, and a warning for those that do not."""
    planes = {(span.region.z, span.region.t) for span in finished.spans}
    there = read_regions(path).regions
    named = [region for region in there if key_of(region, by) is not None]
    kept = tuple(region for region in named if (region.z, region.t) in planes)
    warnings = []
    if len(named) < len(there):
        warnings.append(f"{len(there) - len(named)} annotations of {path.name} have no {by} and are left out.")
    if len(kept) < len(named):
        warnings.append(f"{len(named) - len(kept)} annotations of {path.name} lie in another plane and are left out.")
    return kept, warnings


def _outlines(finished: Run) -> NDArray[np.object_]:
    vertices, starts = read_outlines(finished.geojson_path)
    ring = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return np.asarray(shapely.polygons(shapely.linearrings(vertices.astype(np.float64), indices=ring)))
