"""OME-XML: the size of a pixel, and the page of a TIFF on which a plane lies.

Source: OME model 2016-06, https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Final

from stimage_qupath.slide.plane import Plane

UM_PER_UNIT: Final = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "\\u00b5m": 1.0,
    "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "pm": 1e-6, "å": 1e-4, "inch": 25_400.0, "in": 25_400.0,
}  # fmt: skip
_SIZES: Final = {"Z": "SizeZ", "T": "SizeT", "C": "SizeC"}


@dataclass(frozen=True)
class OmeImage:
    """One plane of an image in an OME-XML document.

    Attributes
    ----------
    page
        Index of its page in the file.
    channels
        Number of samples per position; three for RGB.
    mpp_xy
        um per pixel, None where either is not stated in a unit of length.
    """

    page: int
    channels: int
    mpp_xy: tuple[float, float] | None


def ome_image(xml: str, plane: Plane, *, name: str) -> OmeImage | None:
    """Return where ``plane`` lies, None where the document describes no image.

    Parameters
    ----------
    xml
        OME-XML.
    plane
        Which image and plane.
    name
        Of the file, for messages.

    Raises
    ------
    ImageError
        There are images, but not this plane, or it lies in another file.
    """
    try:
        root = ET.fromstring(xml)
    except ET.ParseError:
        return None
    found = [pixels for image in root.findall("{*}Image") if (pixels := image.find("{*}Pixels")) is not None]
    if not found:
        return None
    if plane.series >= len(found):
        plane.refuse(name, found=f"{len(found)} image{'s' if len(found) > 1 else ''}")
    pixels = found[plane.series]
    x, y = _length_um(pixels, "PhysicalSizeX"), _length_um(pixels, "PhysicalSizeY")
    return OmeImage(
        page=_page(pixels, plane, file_uuid=root.get("UUID"), name=name),
        channels=int(pixels.get("SizeC", "1")),
        mpp_xy=None if x is None or y is None else (x, y),
    )


def _page(pixels: ET.Element, plane: Plane, *, file_uuid: str | None, name: str) -> int:
    """Return the page of a plane: each TiffData lists planes, in the order of the dimensions, from a page on."""
    channel = pixels.find("{*}Channel")
    samples = 1 if channel is None else int(channel.get("SamplesPerPixel", "1"))
    sizes = {axis: int(pixels.get(size, "1")) for axis, size in _SIZES.items()}
    sizes["C"] = max(1, sizes["C"] // samples)
    if plane.z >= sizes["Z"] or plane.t >= sizes["T"]:
        plane.refuse(name, found=f"{sizes['Z']} in depth and {sizes['T']} in time")
    order = pixels.get("DimensionOrder", "XYCZT")[2:]
    wanted = _number(order, sizes, {"Z": plane.z, "T": plane.t})
    blocks = pixels.findall("{*}TiffData")
    for data in blocks:
        first = _number(order, sizes, {axis: int(data.get(f"First{axis}", "0")) for axis in _SIZES})
        every = sizes["Z"] * sizes["T"] * sizes["C"]
        count = int(data.get("PlaneCount", "1" if "IFD" in data.attrib else str(every)))
        if first <= wanted < first + count:
            uuid = data.find("{*}UUID")
            if uuid is not None and file_uuid is not None and (uuid.text or "").strip() != file_uuid.strip():
                plane.refuse(name, found=f"it in another file, {uuid.get('FileName')}")
            return int(data.get("IFD", "0")) + wanted - first
    if blocks:
        plane.refuse(name, found="no page of that plane")
    return wanted


def _number(order: str, sizes: dict[str, int], place: dict[str, int]) -> int:
    """Return the number of a plane where the first axis of ``order`` runs fastest."""
    number, step = 0, 1
    for axis in order:
        number += place.get(axis, 0) * step
        step *= sizes[axis]
    return number


def _length_um(pixels: ET.Element, name: str) -> float | None:
    factor = UM_PER_UNIT.get(pixels.get(f"{name}Unit", "µm").strip().lower())
    try:
        return None if factor is None else float(pixels.get(name, "")) * factor
    except ValueError:
        return None
