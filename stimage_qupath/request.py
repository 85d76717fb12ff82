"""What QuPath asks for: ``request.json``, read and checked before anything heavy is loaded.

The same rules stand, for other programs, in ``schema/request.schema.json``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from stimage_qupath.config import MOST_EXPANSION_UM, Measurements, Settings, Unit
from stimage_qupath.errors import UsageError

API: Final = 1
"""Version of the protocol; one that differs is refused."""
ID_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Names folders on any disk of any system, whatever the image is called."""
ROTATIONS: Final = (0, 90, 180, 270)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest(Settings):
    """Which model.

    Attributes
    ----------
    id
        ``starter`` or the path of a model folder.
    sha256
        Of its ``model.json``; None takes the model as it is.
    """

    id: str
    sha256: str | None = None

    def _check(self) -> None:
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            msg = f"expected the sha256 of a model as 64 lower-case hexadecimal digits, found '{self.sha256}'"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest(Settings):
    """One image, as QuPath shows it.

    Attributes
    ----------
    id
        Letters, digits, ``-`` and ``_``; QuPath's entry id. Names the run folder.
    name
        For people only.
    uri
        ``file:`` URI.
    server
        QuPath's reader, for the record.
    series
        Image within the file.
    width, height
        Level-0 px of the image as QuPath shows it.
    pixel_um
        um per pixel in x and y, or None where QuPath knows none.
    bounds
        Part of the file that QuPath shows (x, y, width, height), or None.
    rotation
        Degrees clockwise by which QuPath shows the file turned.
    crop
        Part of the turned image that QuPath shows (x, y, width, height), or None.
    z, t
        Plane.
    regions
        GeoJSON of the annotations; None finds tissue.
    """

    id: str
    name: str
    uri: str
    width: int
    height: int
    server: str = ""
    series: int = 0
    pixel_um: tuple[float, ...] | None = None
    bounds: tuple[int, ...] | None = None
    rotation: int = 0
    crop: tuple[int, ...] | None = None
    z: int = 0
    t: int = 0
    regions: Path | None = None

    def _check(self) -> None:
        if not ID_PATTERN.fullmatch(self.id):
            msg = f"expected an image id of at most 64 letters, digits, '-' and '_', found '{self.id}'"
            raise UsageError(msg)
        for name in ("width", "height"):
            _require_whole(name, getattr(self, name), 1)
        for name in ("series", "z", "t"):
            _require_whole(name, getattr(self, name), 0)
        if self.rotation not in ROTATIONS:
            msg = f"expected a rotation out of {', '.join(map(str, ROTATIONS))}, found {self.rotation}"
            raise UsageError(msg)
        if self.pixel_um is not None and not (len(self.pixel_um) == 2 and all(map(_is_size, self.pixel_um))):
            msg = f"expected pixel_um as two positive numbers, found {list(self.pixel_um)}"
            raise UsageError(msg)
        for name in ("bounds", "crop"):
            box = getattr(self, name)
            if box is not None and not (len(box) == 4 and all(isinstance(v, int) for v in box)):
                msg = f"expected {name} as four whole numbers, found {list(box)}"
                raise UsageError(msg)

    @property
    def path(self) -> Path:
        """The image on this machine's disk.

        Raises
        ------
        UsageError
            The URI is not one of a file.
        """
        parts = urlsplit(self.uri)
        if parts.scheme != "file":
            msg = f"expected an image on a disk (file: URI), found {self.uri}; save a copy of the image on this machine"
            raise UsageError(msg)
        path = url2pathname(parts.path)
        host = unquote(parts.netloc)
        return Path(path if host in ("", "localhost") else f"//{host}{path}")

    @property
    def view(self) -> tuple[str, ...]:
        """What QuPath reads and how it shows it, in the words of a prediction's settings; bounds are seen to."""
        series = (f"series {self.series}",) if self.series else ()
        plane = (f"plane {self.z},{self.t}",) if self.z or self.t else ()
        turned = (f"rotate {self.rotation}",) if self.rotation else ()
        cropped = (f"crop {','.join(map(str, self.crop))}",) if self.crop else ()
        return (*series, *plane, *turned, *cropped)

    @property
    def folder_name(self) -> str:
        """Name of the image's run folder; the prefix keeps it off the names that Windows reserves."""
        return f"image-{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Settings):
    """Everything one run of the worker does.

    Attributes
    ----------
    api
        Version of the protocol.
    run_id
        Chosen by the caller, repeated in every answer.
    output
        Absolute folder for the run folders.
    model, genes, unit, stride_um, segmenter, measurements, device, batch_size, seed
        As for a prediction.
    images
        At least one.
    explain
        Genes whose prediction is explained nucleus by nucleus.
    nuclei
        File of nuclei that are there already, of the one image; None outlines them.
    cell_expansion_um
        How far a cell reaches beyond its nucleus; 0: nuclei only.
    replace
        ``own``: QuPath removes our earlier objects of the same parents first; ``none``: it does not.
    """

    api: int
    run_id: str
    output: Path
    model: ModelRequest
    images: tuple[ImageRequest, ...]
    genes: tuple[str, ...] = ()
    explain: tuple[str, ...] = ()
    unit: Unit = "cells"
    stride_um: float | None = None
    segmenter: str = "classical"
    nuclei: Path | None = None
    cell_expansion_um: float = 0.0
    measurements: Measurements = "short"
    device: str = "auto"
    batch_size: int | None = None
    seed: int | None = None
    replace: Literal["own", "none"] = "own"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from the object in ``request.json``.

        Raises
        ------
        UsageError
            A key is unknown or missing, a value is not allowed, or this version cannot do what it asks for.
        """
        if values.get("api", API) != API:
            msg = f"expected api {API}, found {values['api']!r}; run install-scripts, so that scripts and package fit"
            raise UsageError(msg)
        nested = dict(values)
        if isinstance(values.get("model"), dict):
            nested["model"] = _within("model", ModelRequest, values["model"])
        if isinstance(values.get("images"), list):
            nested["images"] = tuple(
                _within(f"images[{i}]", ImageRequest, image) for i, image in enumerate(values["images"])
            )
        # slots rebuild the class, so the zero-argument super() would look at the one before
        return super(Request, cls).from_dict(nested)

    def _check(self) -> None:
        if not self.output.is_absolute():
            msg = f"expected an absolute output folder, found {self.output}"
            raise UsageError(msg)
        for name in ("genes", "explain"):
            if not all(isinstance(gene, str) for gene in getattr(self, name)):
                msg = f"expected {name} as a list of gene symbols, found {list(getattr(self, name))}"
                raise UsageError(msg)
        if not self.images or not all(isinstance(image, ImageRequest) for image in self.images):
            msg = "expected at least one image in the request, found none"
            raise UsageError(msg)
        if self.nuclei is not None and len(self.images) > 1:
            msg = f"expected one image with a file of nuclei, found {len(self.images)}; ask for each image by itself"
            raise UsageError(msg)
        if not 0 <= self.cell_expansion_um <= MOST_EXPANSION_UM:
            msg = f"expected cell_expansion_um from 0 to {MOST_EXPANSION_UM:g}, found {self.cell_expansion_um:g}"
            raise UsageError(msg)
        ids = [image.id.casefold() for image in self.images]
        doubled = sorted({i for i in ids if ids.count(i) > 1})
        if doubled:
            msg = f"expected each image id once, found {', '.join(doubled)} more than once"
            raise UsageError(msg)


def read_request(path: Path) -> Request:
    """Return the request in a file.

    Raises
    ------
    UsageError
        The file cannot be read, or is no request.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"expected a request in UTF-8 at {path}, found: {error}"
        raise UsageError(msg) from error
    return Request.from_json(text)


def _within(where: str, kind: type[Settings], values: Any) -> Settings:
    """Build a nested object and say in its error where it stands."""
    if not isinstance(values, dict):
        msg = f"{where}: expected an object, found {type(values).__name__}"
        raise UsageError(msg)
    try:
        return kind.from_dict(values)
    except UsageError as error:
        msg = f"{where}: {error}"
        raise UsageError(msg) from error


def _require_whole(name: str, value: int, minimum: int) -> None:
    if isinstance(value, bool) or value < minimum:
        msg = f"expected {name} of at least {minimum}, found {value}"
        raise UsageError(msg)


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
