"""Colours of classes: QuPath refuses a class without one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, TypeAlias

from stimage_qupath.geojson_dialect.fault import FeatureFault, shown

Color: TypeAlias = tuple[int, int, int]

QUPATH_COLORS: Final[Mapping[str, Color]] = {
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Immune cells": (160, 90, 160),
    "Necrosis": (50, 50, 50),
    "Other": (255, 200, 0),
    "Region*": (0, 0, 180),
    "Ignore*": (180, 180, 180),
}
"""Colours a fresh QuPath project gives its default classes."""


def default_color(classification: str) -> Color:
    """Return QuPath's colour of a default class, by its base part, else a fixed one drawn from the name."""
    base = classification.split(": ")[0]
    if base in QUPATH_COLORS:
        return QUPATH_COLORS[base]
    red, green, blue = hashlib.sha256(classification.encode()).digest()[:3]
    return red, green, blue


def parse_color(value: object) -> Color | None:
    """Return red, green, blue from ``[r, g, b]``, ``[r, g, b, a]``, a packed (A)RGB integer, or None from null.

    Raises
    ------
    FeatureFault
        It is none of these.
    """
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return (value >> 16) & 255, (value >> 8) & 255, value & 255
    if isinstance(value, list) and len(value) in {3, 4}:
        channels = [int(c) for c in value if isinstance(c, int | float) and c == c // 1 and 0 <= c <= 255]
        if len(channels) == len(value):
            return channels[0], channels[1], channels[2]
    raise FeatureFault(expected="a colour of three whole numbers from 0 to 255", found=shown(value))
